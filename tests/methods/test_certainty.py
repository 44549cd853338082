"""What the confidence of a ranker's answers is worth."""

from __future__ import annotations

import pytest

from blender_med.metrics.calibration import aurc, ece
from blender_med.records import Answer, Candidate, Question, Ranking, Score
from blender_med.reports.columns import ranking_cells
from blender_med.stages.comparison import Resampling, compare, ranking_rows, with_certainty
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import build_boards

KEYS = ("a#0", "b#0")
SURE = (0.9, 0.8, 0.6, None)


@pytest.fixture
def study():
    """Four questions; a ranker puts a first everywhere, which is the best in all but the second.

    The third question's labels tie, the fourth has no confidence.
    """
    labels = [(0.9, 0.1), (0.2, 0.7), (0.5, 0.5), (0.8, 0.3)]
    questions = [Question(f"q{i}", "clinic", "test", "long", "?") for i in range(4)]
    candidates = [Candidate(q.id, name, 0, name) for q in questions for name in "ab"]
    scores = [
        Score(q.id, name, 0, metric, value)
        for q, own in zip(questions, labels, strict=True)
        for name, value in zip("ab", own, strict=True)
        for metric in ("rougeL", "chrf")
    ]
    answers = [
        Answer(q.id, "r", "a", confidence=sure, candidate="a#0")
        for q, sure in zip(questions, SURE, strict=True)
    ]
    boards = build_boards(questions, candidates, scores)
    rankings = {"r": [Ranking(q.id, "r", KEYS, (1.0, 0.0), (1, 2)) for q in questions]}
    comparison = compare(boards, answers, MethodSettings(), resamples=100)
    rows = ranking_rows(boards, rankings, ["rougeL", "chrf"], Resampling(100))
    return rows, comparison


def test_certainty_by_hand(study) -> None:
    first, other = with_certainty(*study)
    assert (first.label, other.label) == ("rougeL", "chrf")
    # Best in the first and, tied, in the third question.
    expected = aurc([0.9, 0.8, 0.6], [0, 1, 0]), ece([0.9, 0.8, 0.6], [1, 0, 1])
    found = first.certainty
    assert (found.n, found.risk) == (3, pytest.approx(1 / 3))
    assert (found.aurc, found.ece) == pytest.approx(expected)
    # An order is there to be found in three questions, one of which has no confidence.
    assert first.n == 3
    assert other.certainty is None


def test_columns_stand_after_the_ranking_metrics(study) -> None:
    first, other = with_certainty(*study)
    assert list(ranking_cells(first)[-1]) == ["confidence_n", "risk", "aurc", "ece"]
    assert ranking_cells(other)[-1] == {}


def test_a_ranker_without_answers_has_no_certainty(study) -> None:
    rows, _ = study
    empty = compare([], [], MethodSettings())
    assert {row.certainty for row in with_certainty(rows, empty)} == {None}
