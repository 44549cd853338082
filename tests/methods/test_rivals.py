"""Methods against rivals: on one data set, pooled over several, and what the gates did."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from blender_med.records import Answer, Candidate, FusedChoice, Question
from blender_med.stages.comparison import Resampling, compare, gating_rows, rival_rows
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board
from blender_med.stages.methods.board import build_boards

SETTINGS = MethodSettings(seed=5)
RESAMPLING = Resampling(200, 5)
METHODS = ("expert:a", "expert:b", "oracle", "fused", "fused-routed", "majority_vote")
OPTIONS = ("w", "x", "y")


def question(dataset: str, i: int) -> Question:
    split = "dev" if i % 4 == 0 else "test"
    return Question(f"{dataset}{i}", dataset, split, "mcq", "Why?", None, OPTIONS, i % 3)


def questions() -> list[Question]:
    return [question("one", i) for i in range(40)] + [question("two", i) for i in range(24)]


def candidates(protocol: str = "lm_eval") -> list[Candidate]:
    draw = np.random.default_rng(1)
    return [
        Candidate(
            q.id, name, 0, "", int(draw.integers(3)), (-1.0, -2.0, -3.0), protocol=protocol,
            prompt_tokens=7, seconds=0.5,
        )
        for q in questions() for name in ("a", "b")
    ]  # fmt: skip


def choices() -> list[FusedChoice]:
    """Right in every question but each fifth; the gate prefers b in each second."""
    found = []
    for number, q in enumerate(questions()):
        index = (q.answer_index + (number % 5 == 0)) % 3
        weights = (0.25, 0.75) if number % 2 else (1.0, 0.0)
        read = ("a", "b") if number % 2 else ("a",)
        probabilities = tuple(0.8 if i == index else 0.1 for i in range(3))
        seeds = (index, q.answer_index, (index + 1) % 3)
        found.append(
            FusedChoice(q.id, "fused", "fused", index, probabilities, ("a", "b"), weights, read,
                        seeds, 11, 2.0, 0.125)
        )  # fmt: skip
    return found


def compared(own: list[Candidate] | None = None):
    boards = build_boards(questions(), own or candidates(), ())
    fused = {"fused": choices(), "fused-routed": choices()}
    answers: list[Answer] = [
        a for b in boards for a in answer_board(b, SETTINGS, METHODS, choices=fused)
    ]
    return compare(boards, answers, SETTINGS, resamples=200), answers


def test_a_rival_is_beaten_on_every_data_set_and_on_all_together() -> None:
    comparison, answers = compared()
    rows = {(r.block.dataset, r.block.split, r.method): r
            for r in rival_rows(comparison, ["expert:a", "absent"], RESAMPLING)}  # fmt: skip
    assert {key[0] for key in rows} == {"one", "two", "pooled"}
    gold = {q.id: q.answer_index for q in questions() if q.split == "test"}
    right = {
        method: {a.question_id: a.choice_index == gold[a.question_id] for a in answers
                 if a.method == method and a.question_id in gold}
        for method in ("fused", "expert:a")
    }  # fmt: skip
    row = rows["pooled", "test", "fused"]
    assert row.n == len(gold) == 48
    wins = sum(right["fused"][key] and not right["expert:a"][key] for key in gold)
    losses = sum(right["expert:a"][key] and not right["fused"][key] for key in gold)
    assert (row.wins, row.losses) == (wins, losses)
    assert row.estimate.p == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert row.estimate.value == pytest.approx(np.mean(list(right["fused"].values())))
    assert row.rival_value == pytest.approx(np.mean(list(right["expert:a"].values())))
    assert row.estimate.delta == pytest.approx((wins - losses) / 48)
    parts = [rows[name, "test", "fused"] for name in ("one", "two")]
    assert sum(part.wins for part in parts) == wins and sum(part.n for part in parts) == 48
    # Four methods are tested against the rival; the oracle is none of them.
    family = [r for r in rows.values() if r.block == row.block and r.estimate.p_holm is not None]
    assert {r.method for r in family} == {"expert:b", "fused", "fused-routed", "majority_vote"}
    assert row.estimate.p_holm >= row.estimate.p
    assert rows["pooled", "test", "oracle"].estimate.p_holm is None


def test_a_single_data_set_is_not_pooled() -> None:
    boards = build_boards(questions()[:40], candidates()[:80], ())
    answers = [a for b in boards for a in answer_board(b, SETTINGS, METHODS[:2])]
    rows = rival_rows(compare(boards, answers, SETTINGS, resamples=200), ["expert:a"], RESAMPLING)
    assert {row.block.dataset for row in rows} == {"one"}


def test_the_answers_of_a_fuser_and_of_its_routing() -> None:
    _, answers = compared()
    own = {(c.question_id, c.expert): c for c in candidates()}
    by_method = {(a.method, a.question_id): a for a in answers}
    for choice in choices():
        fused = by_method["fused", choice.question_id]
        assert (fused.choice_index, fused.confidence) == (choice.choice_index, 0.8)
        assert (fused.tokens, fused.seconds) == (11, 2.0)
        prefers_b = choice.weights[1] > 0.5
        assert fused.experts_used == (("a", "b") if prefers_b else ("a",))
        routed = by_method["fused-routed", choice.question_id]
        expert = "b" if prefers_b else "a"
        assert routed.choice_index == own[choice.question_id, expert].choice_index
        assert (routed.experts_used, routed.tokens, routed.seconds) == ((expert,), 7, 0.625)
        shares = np.exp(own[choice.question_id, expert].option_logprobs)
        assert routed.confidence == pytest.approx(shares[routed.choice_index] / shares.sum())


def test_choices_are_compared_with_answers_of_their_protocol_alone() -> None:
    _, answers = compared(candidates("generative"))
    assert {a.method for a in answers} == {"expert:a", "expert:b", "oracle", "majority_vote"}


def test_what_gates_and_seeds_did() -> None:
    comparison, _ = compared()
    rows = list(gating_rows(comparison, {"fused": choices()}))
    assert [(r.block.dataset, r.block.split) for r in rows] == [
        ("one", "dev"), ("one", "test"), ("two", "dev"), ("two", "test")]  # fmt: skip
    test = rows[1]
    numbers = [i for i in range(40) if i % 4]
    first = np.mean([i % 5 != 0 for i in numbers])
    assert test.n == 30 and test.accuracy == pytest.approx(first)
    assert test.seeds == pytest.approx((first, 1.0, 0.0))
    assert test.seed_mean == pytest.approx((first + 1) / 3)
    assert test.seed_deviation == pytest.approx(np.std([first, 1.0, 0.0], ddof=1))
    odd = np.mean([i % 2 for i in numbers])
    assert test.shares == pytest.approx({"a": 1.0, "b": odd})
    assert test.weights == pytest.approx({"a": 1 - 0.75 * odd, "b": 0.75 * odd})
