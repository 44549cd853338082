"""Paired differences of two runs."""

from dataclasses import replace

import pytest
from scipy.stats import binomtest

from blender_med.errors import DataError
from blender_med.records import Answer, Candidate, Question, Score
from blender_med.stages.comparison import Resampling, compare, difference_rows
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import build_boards

N = 12


def questions():
    long = [Question(f"l{i}", "d", "test", "long", "W?", reference="r") for i in range(N)]
    return long + [
        Question(f"m{i}", "d", "test", "mcq", "?", None, ("r", "s"), i % 2) for i in range(N)
    ]


def run(shift=0.0, right=N, asked=None, methods=("m1", "m2")):
    """Every method takes the one candidate; ``right`` multiple-choice answers are right."""
    asked = questions() if asked is None else asked
    candidates, scores, answers = [], [], []
    for question in asked:
        number = int(question.id[1:])
        choice = None
        if question.task == "mcq":
            choice = number % 2 if number < right else 1 - number % 2
        candidates.append(Candidate(question.id, "a", 0, "t", choice))
        for metric in ("rougeL", "length") if question.task == "long" else ():
            value = number / N + shift * (number % 3)
            scores.append(Score(question.id, "a", 0, metric, value))
        answers += [
            Answer(question.id, m, "t", choice_index=choice, candidate="a#0", tokens=7)
            for m in methods
        ]
    boards = build_boards(asked, candidates, scores)
    return compare(boards, answers, MethodSettings(), resamples=100)


def differences(first, second, **options):
    found = difference_rows(first, second, Resampling(200), **options)
    return {(row.block.task, row.metric, row.method): row for row in found}


def test_differences_are_paired_and_signed():
    rows = differences(run(), run(shift=0.3, right=N - 4))
    row = rows["long", "rougeL", "m1"]
    assert (row.n, row.first_tokens) == (N, 7)
    assert row.second.value - row.first == pytest.approx(0.3)
    assert row.second.delta == pytest.approx(0.3)
    assert row.second.delta_low < 0.3 < row.second.delta_high
    choice = rows["mcq", "accuracy", "m2"].second
    assert choice.delta == pytest.approx(-4 / N)
    assert choice.p == pytest.approx(binomtest(0, 4).pvalue)
    assert choice.p_holm == pytest.approx(min(1, 2 * choice.p))
    assert rows["mcq", "macro_f1", "m1"].second.delta < 0
    assert rows["long", "length", "m1"].second.p is None


def test_equal_runs_do_not_differ_and_are_no_family():
    for row in differences(run(), run()).values():
        assert row.second.delta == 0
        assert row.second.p_holm is None


def test_only_common_questions_and_methods_count():
    asked = questions()
    moved = [replace(q, split="dev") if q.id in ("l0", "l1") else q for q in asked[2:] + asked[:2]]
    rows = differences(run(methods=("m1", "x")), run(asked=moved, methods=("m1", "y")))
    assert {method for _, _, method in rows} == {"m1"}
    assert rows["long", "rougeL", "m1"].n == N - 2


def test_left_out_metrics_have_no_rows():
    rows = differences(run(), run(shift=0.1), left_out=("rougeL",))
    assert {metric for task, metric, _ in rows if task == "long"} == {"length"}


def test_no_common_question_is_an_error():
    other = [replace(q, id=f"{q.id[0]}{int(q.id[1:]) + N}") for q in questions()]
    with pytest.raises(DataError, match="no question in common"):
        differences(run(), run(asked=other))


def test_another_reference_is_an_error():
    other = [replace(q, reference="other") if q.id == "l3" else q for q in questions()]
    with pytest.raises(DataError, match=r"question l3 has another 'reference'.*'other'"):
        differences(run(), run(asked=other))
