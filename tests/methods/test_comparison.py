"""Result rows: values, intervals, paired tests against the best single expert, slices, cost."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from blender_med.errors import DataError
from blender_med.records import Answer, Candidate, Question, Score
from blender_med.stages.comparison import compare
from blender_med.stages.comparison.slices import length_band
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board
from blender_med.stages.methods.board import build_boards

SETTINGS = MethodSettings(seed=5)
LETTERS = ("w", "x", "y", "z")


def exam(n=60, experts=("a", "b", "c"), seed=0, meta=None):
    """Multiple choice; expert a is right in 80 %, the others in 50 %; every tenth is unparsed."""
    draw = np.random.default_rng(seed)
    questions, candidates = [], []
    for i in range(n):
        split, answer = ("dev" if i % 3 == 0 else "test"), int(draw.integers(4))
        about = meta(i) if meta else {}
        questions.append(
            Question(f"q{i}", "exam", split, "mcq", "Why?", None, LETTERS, answer, None, about)
        )
        for name in experts:
            right = draw.random() < (0.8 if name == "a" else 0.5)
            index = answer if right else None if i % 10 == 9 else int(draw.integers(4))
            candidates.append(
                Candidate(f"q{i}", name, 0, f"{name}{i}", index, prompt_tokens=4, seconds=0.1)
            )
    return questions, candidates


def clinic(n=40, seed=1, groups=None):
    """Long answers; expert b is better by 0.1 on average; the length has no direction."""
    draw = np.random.default_rng(seed)
    questions, candidates, scores = [], [], []
    for i in range(n):
        meta = {"question_type": "treatment" if i % 3 else "causes"}
        if groups:
            meta["group"] = f"g{i // groups}"
        split = "dev" if i % 2 == 0 else "test"
        questions.append(
            Question(f"q{i}", "clinic", split, "long", "What? " * (1 + i), reference="r", meta=meta)
        )
        for name, shift in (("a", 0.0), ("b", 0.1)):
            candidates.append(
                Candidate(f"q{i}", name, 0, f"{name} {i}", prompt_tokens=10, completion_tokens=i)
            )
            scores.append(Score(f"q{i}", name, 0, "rougeL", float(draw.random() + shift)))
            scores.append(Score(f"q{i}", name, 0, "length", float(i)))
    return questions, candidates, scores


def compared(questions, candidates, scores=(), methods=None, extra=(), **options):
    boards = build_boards(questions, candidates, scores)
    answers = [a for b in boards for a in answer_board(b, SETTINGS, methods)]
    return compare(boards, [*answers, *extra], SETTINGS, **{"resamples": 400, **options})


def rows_by_method(comparison, split="test"):
    return {r.method: r for r in comparison.methods if r.block.split == split}


def test_accuracy_macro_f1_and_confusion_of_an_expert():
    questions, candidates = exam()
    comparison = compared(questions, candidates)
    row = rows_by_method(comparison)["expert:b"]
    test = [q for q in questions if q.split == "test"]
    picks = {c.question_id: c.choice_index for c in candidates if c.expert == "b"}
    gold = [q.answer_index for q in test]
    predicted = [-1 if picks[q.id] is None else picks[q.id] for q in test]
    assert row.n == len(test) == 40
    assert row.primary == "accuracy"
    assert row.metrics["accuracy"].value == pytest.approx(np.mean(np.array(gold) == predicted))
    expected = f1_score(gold, predicted, labels=[0, 1, 2, 3], average="macro")
    assert row.metrics["macro_f1"].value == pytest.approx(expected)
    assert row.metrics["unparsed"].value == pytest.approx(predicted.count(-1) / 40)
    assert row.metrics["unparsed"].p is None
    assert list(row.labels) == ["A", "B", "C", "D"]
    cells = [c for c in comparison.confusions if c.method == "expert:b" and c.block.split == "test"]
    assert len(cells) == 20
    assert sum(c.count for c in cells) == 40
    assert sum(c.count for c in cells if c.predicted == "") == predicted.count(-1)
    assert (
        sum(c.count for c in cells if c.gold == c.predicted) == row.metrics["accuracy"].value * 40
    )


def test_every_interval_holds_its_value():
    for data in (exam(), clinic()):
        for row in compared(*data).methods:
            for estimate in row.metrics.values():
                assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


def test_accuracy_is_tested_by_mcnemar_against_the_best_single_expert():
    questions, candidates = exam()
    rows = rows_by_method(compared(questions, candidates))
    assert rows["best_single"].note == "chosen on dev: a"
    assert rows["best_single"].metrics["accuracy"].delta is None
    right = {
        name: {
            c.question_id: c.choice_index == q.answer_index
            for q in questions
            for c in candidates
            if c.question_id == q.id and c.expert == name and q.split == "test"
        }
        for name in "ab"
    }
    only_a = sum(right["a"][i] and not right["b"][i] for i in right["a"])
    only_b = sum(right["b"][i] and not right["a"][i] for i in right["a"])
    estimate = rows["expert:b"].metrics["accuracy"]
    assert estimate.delta == pytest.approx((only_b - only_a) / 40)
    assert estimate.p == pytest.approx(binomtest(only_b, only_a + only_b).pvalue)


def test_holm_family_leaves_out_oracle_and_the_best_expert_itself():
    rows = rows_by_method(compared(*exam()))
    for metric in ("accuracy", "macro_f1"):
        assert rows["oracle"].metrics[metric].p is not None
        assert rows["oracle"].metrics[metric].p_holm is None
        assert rows["expert:a"].metrics[metric].delta == 0
        assert rows["expert:a"].metrics[metric].p_holm is None
        family = [r.metrics[metric] for r in rows.values() if r.metrics[metric].p_holm is not None]
        assert len(family) == len(rows) - 3
        smallest = min(family, key=lambda e: e.p)
        assert smallest.p_holm == pytest.approx(min(1.0, smallest.p * len(family)))
        assert all(e.p_holm >= e.p for e in family)
    assert rows["oracle"].upper_bound
    assert not rows["random"].upper_bound
    assert rows["constant"].note.startswith("always ")


def test_long_metrics_and_a_descriptive_one():
    questions, candidates, scores = clinic()
    rows = rows_by_method(compared(questions, candidates, scores))
    values = {
        name: np.array(
            [
                s.value
                for s in scores
                if s.expert == name and s.metric == "rougeL" and int(s.question_id[1:]) % 2
            ]
        )
        for name in "ab"
    }
    chosen = rows["best_single"].note.removeprefix("chosen on dev: ")
    other = "a" if chosen == "b" else "b"
    estimate = rows[f"expert:{other}"].metrics["rougeL"]
    assert estimate.value == pytest.approx(values[other].mean())
    assert estimate.delta == pytest.approx((values[other] - values[chosen]).mean())
    assert 0 < estimate.p <= 1
    length = rows[f"expert:{other}"].metrics["length"]
    assert (length.p, length.p_holm, length.delta) == (None, None, 0.0)


def test_new_texts_use_scores_that_name_the_method():
    questions, candidates, scores = clinic()
    extra = [
        Answer(q.id, "genfuser", "a new text", experts_used=("a", "b"), tokens=3) for q in questions
    ]
    scores += [Score(q.id, "genfuser", 0, "rougeL", 2.0) for q in questions]
    comparison = compared(questions, candidates, scores, extra=extra)
    row = rows_by_method(comparison)["genfuser"]
    assert row.metrics["rougeL"].value == 2.0
    assert "length" not in row.metrics
    assert (row.experts_run, row.tokens) == (2.0, 60)
    cell = next(c for c in next(comparison.answers()).answers if c.method == "genfuser")
    assert (cell.text, cell.candidate, cell.value) == ("a new text", "", 2.0)


def test_groups_widen_the_interval():
    questions, candidates, scores = clinic(n=80)
    shared = []
    for q in questions:
        half = int(q.id[1:]) // 20
        shared.append(replace(q, meta={**q.meta, "group": str(half)}))
        scores = [replace(s, value=float(half)) if s.question_id == q.id else s for s in scores]
    widths = []
    for variant in (questions, shared):
        estimate = rows_by_method(compared(variant, candidates, scores))["expert:a"].metrics[
            "rougeL"
        ]
        widths.append(estimate.high - estimate.low)
    assert widths[1] > 2 * widths[0]


def test_without_dev_there_is_no_best_single_and_no_test():
    questions, candidates = exam()
    rows = rows_by_method(compared([replace(q, split="test") for q in questions], candidates))
    assert "best_single" not in rows
    assert all(
        r.metrics["accuracy"].p is None and r.metrics["accuracy"].delta is None
        for r in rows.values()
    )


def test_questions_without_a_known_answer_count_for_cost_only():
    questions, candidates = exam()
    blind = [replace(q, answer_index=None) if q.split == "test" else q for q in questions]
    comparison = compared(blind, candidates)
    row = rows_by_method(comparison)["expert:a"]
    assert (row.n, row.metrics, row.labels, row.tokens) == (0, {}, {}, 160)
    assert rows_by_method(comparison, "dev")["expert:a"].n == 20


def test_an_expert_that_misses_questions_keeps_its_n_and_pairs_what_both_answered():
    questions, candidates = exam()
    ragged = [c for c in candidates if c.expert != "b" or int(c.question_id[1:]) < 30]
    row = rows_by_method(compared(questions, ragged))["expert:b"]
    assert row.n == 20
    assert row.metrics["accuracy"].delta is not None
    assert row.metrics["macro_f1"].delta is None


def test_one_question_one_candidate():
    question = Question("q", "exam", "test", "mcq", "Why?", None, LETTERS, 1)
    row = rows_by_method(compared([question], [Candidate("q", "a", 0, "B", 1)]))["majority_vote"]
    estimate = row.metrics["accuracy"]
    assert (row.n, estimate.value, estimate.low, estimate.high) == (1, 1.0, 1.0, 1.0)


def test_cost_rows():
    comparison = compared(*exam())
    costs = {c.method: c for c in comparison.costs if c.block.split == "test"}
    assert costs["majority_vote"].experts == ("a", "b", "c")
    assert costs["majority_vote"].tokens_per_question == 12
    assert costs["majority_vote"].seconds_per_question == pytest.approx(0.3)
    assert (costs["constant"].tokens, costs["constant"].experts) == (0, ())
    assert costs["best_single"].tokens == 160
    row = rows_by_method(comparison)
    assert row["majority_vote"].experts_run == 3.0
    assert row["best_single"].experts_run == 1.0


def test_slices_split_a_block_and_average_back():
    comparison = compared(*clinic())
    row = rows_by_method(comparison)["mbr"]
    own = [s for s in comparison.slices if s.method == "mbr" and s.block.split == "test"]
    assert {s.slice for s in own} == {"question_type", "question_words"}
    for key in ("question_type", "question_words"):
        part = [s for s in own if s.slice == key]
        assert sum(s.n for s in part) == row.n
        mean = sum(s.estimate.value * s.n for s in part) / row.n
        assert mean == pytest.approx(row.metrics["rougeL"].value)
    assert [s.value for s in own if s.slice == "question_words"] == ["1-10", "11-25", "26-50"]
    assert all(s.estimate.p is None for s in own)


def test_rare_values_of_a_slice_are_pooled():
    comparison = compared(*exam(n=300, meta=lambda i: {"subject": f"s{i % 60}"}))
    values = [
        s.value for s in comparison.slices if s.method == "random" and s.block.split == "test"
    ]
    # 60 subjects, of which i % 3 leaves 40 in test; 20 in dev.
    assert len(values) == 40
    many = compared(*exam(n=300, meta=lambda i: {"subject": f"s{i % 90}"}))
    pooled = [s.value for s in many.slices if s.method == "random" and s.block.split == "test"]
    assert len(pooled) == 51
    assert pooled[-1] == "(other)"


@pytest.mark.parametrize(
    ("words", "band"), [(0, "1-10"), (10, "1-10"), (11, "11-25"), (100, "51-100"), (101, "101+")]
)
def test_length_bands(words, band):
    assert length_band(words) == band


def test_answer_rows_show_every_candidate_and_answer():
    questions, candidates = exam()
    comparison = compared(questions, candidates)
    rows = list(comparison.answers())
    assert [r.question_id for r in rows] == [q.id for q in questions]
    first = rows[0]
    assert first.options == "A. w\nB. x\nC. y\nD. z"
    assert first.gold == "ABCD"[questions[0].answer_index]
    assert [c.key for c in first.candidates] == ["a#0", "b#0", "c#0"]
    by_method = {a.method: a for a in first.answers}
    assert by_method["expert:a"].candidate == "a#0"
    assert by_method["constant"].text in LETTERS
    assert by_method["majority_vote"].confidence is not None


def test_same_seed_same_result():
    assert compared(*clinic()).methods == compared(*clinic()).methods


def test_answers_that_do_not_fit_are_refused():
    questions, candidates = exam(n=3)
    with pytest.raises(DataError, match="no question with candidates"):
        compared(questions, candidates, extra=[Answer("elsewhere", "m", "")])
    with pytest.raises(DataError, match="repeats a candidate that does not exist"):
        compared(questions, candidates, extra=[Answer("q0", "m", "", candidate="z#0")])


def test_the_primary_metric_must_be_scored():
    questions, candidates, scores = clinic()
    with pytest.raises(DataError, match="no score of this metric"):
        compared(questions, candidates, [s for s in scores if s.metric != "rougeL"])
    with pytest.raises(DataError, match=r"Fix: add it to 'metrics' of stage score$"):
        compared(questions, candidates, [])


def test_no_answers_no_rows():
    comparison = compare([], [], SETTINGS)
    assert comparison.methods == comparison.slices == list(comparison.answers()) == []


def test_the_clean_subset_leaves_out_questions_that_an_earlier_split_gives_away():
    questions, candidates = exam(30)
    questions = [replace(q, question=f"Which one is number {q.id}?") for q in questions]
    for place in (1, 2):  # test questions; q0 is a dev question
        questions[place] = replace(questions[place], question=questions[0].question.upper())
    comparison = compared(questions, candidates, methods=("expert:a", "best_single"))
    rows = rows_by_method(comparison)
    right = {c.question_id: c.choice_index == q.answer_index for q, c in _of(questions, candidates)}
    clean = [right[q.id] for q in questions if q.split == "test" and q.id not in ("q1", "q2")]
    assert rows["expert:a"].n == 20
    assert rows["expert:a"].clean_n == len(clean) == 18
    assert rows["expert:a"].metrics["accuracy_clean"].value == pytest.approx(np.mean(clean))
    assert [(r.overlap.a_id, r.overlap.b_id) for r in comparison.contamination.rows()] == [
        ("q1", "q0"),
        ("q2", "q0"),
    ]
    assert rows_by_method(comparison, "dev")["expert:a"].clean_n is None  # nothing is earlier


def _of(questions, candidates):
    known = {q.id: q for q in questions}
    return [(known[c.question_id], c) for c in candidates if c.expert == "a"]
