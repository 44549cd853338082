from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from blender_med.data.groups import connected
from blender_med.data.splits import resplit, with_dev_split
from blender_med.records import Question

HALVES = {"dev": 0.5, "test": 0.5}


def question(name: str, split: str = "train", group: str | None = None) -> Question:
    meta = {} if group is None else {"group": group}
    return Question(name, "d", split, "long", f"{name}?", reference="r", meta=meta)


def many(n: int, split: str = "train") -> list[Question]:
    return [question(f"{split}{i}", split) for i in range(n)]


def test_groups_are_never_cut():
    questions = [question(f"q{i}", group=f"g{i % 7}") for i in range(100)]
    splits: dict[str, set[str]] = {}
    for q in resplit(questions, {"train": 0.6, "dev": 0.2, "test": 0.2}, seed=1):
        splits.setdefault(q.meta["group"], set()).add(q.split)
    assert all(len(found) == 1 for found in splits.values())


def test_a_split_does_not_depend_on_the_other_questions():
    questions = many(500)
    whole = {q.id: q.split for q in resplit(questions, HALVES, seed=3)}
    part = {q.id: q.split for q in resplit(questions[::7], HALVES, seed=3)}
    assert part.items() <= whole.items()


def test_fractions_are_met_on_average_and_the_seed_matters():
    questions = many(4000)
    first = [q.split for q in resplit(questions, {"train": 0.7, "dev": 0.1, "test": 0.2}, seed=0)]
    shares = {split: n / 4000 for split, n in Counter(first).items()}
    # Four standard deviations of a binomial share at n = 4,000 are at most 0.032.
    assert abs(shares["train"] - 0.7) < 0.032
    assert abs(shares["dev"] - 0.1) < 0.032
    assert first != [
        q.split for q in resplit(questions, {"train": 0.7, "dev": 0.1, "test": 0.2}, 1)
    ]


@given(st.integers(2, 6), st.integers(0, 1000))
def test_no_split_is_empty_when_there_are_enough_groups(n, seed):
    found = {q.split for q in resplit(many(n), HALVES, seed)}
    assert found == {"dev", "test"}


def test_empty_and_single():
    assert resplit([], HALVES, 0) == []
    assert with_dev_split([], 0) == []
    assert len(resplit(many(1), HALVES, 0)) == 1


def test_a_single_split_becomes_dev_and_test():
    counts = Counter(q.split for q in with_dev_split(many(2000), seed=0))
    assert set(counts) == {"dev", "test"}
    assert abs(counts["dev"] / 2000 - 0.3) < 0.042


def test_dev_is_carved_out_of_train_and_test_stays():
    questions = many(1000) + many(50, "test")
    found = with_dev_split(questions, seed=0)
    assert [q.id for q in found] == [q.id for q in questions]
    assert all(q.split == "test" for q in found[1000:])
    counts = Counter(q.split for q in found[:1000])
    assert set(counts) == {"train", "dev"}
    assert abs(counts["dev"] / 1000 - 0.2) < 0.051


def test_official_dev_is_kept():
    questions = many(5) + many(5, "dev") + many(5, "test")
    assert with_dev_split(questions, seed=0) == questions


def test_connected_components():
    assert connected([["a", "x"], ["b"], ["c", "x"], ["d", "b"]]) == ["a", "b", "a", "b"]
    assert connected([["a", "1"], ["b", "2"], ["c", "1", "2"]]) == ["a", "a", "a"]
    assert connected([]) == []


def test_real_medquad_splits_share_no_document_focus_or_question(medquad):
    found = with_dev_split(medquad, seed=0)
    for name in ("document", "subject"):
        sides = {s: {q.meta.get(name, "") for q in found if q.split == s} for s in ("dev", "test")}
        assert sides["dev"] & sides["test"] <= {""}
    asked = {s: {q.question.lower() for q in found if q.split == s} for s in ("dev", "test")}
    assert asked["dev"].isdisjoint(asked["test"])
    share = sum(q.split == "dev" for q in found) / len(found)
    assert abs(share - 0.3) < 0.03
