"""Scores of candidates by task."""

import math

import pytest

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.metrics.overlap import rouge_l
from blender_med.metrics.scoring import score_candidates
from blender_med.records import Candidate, Question, Score

QUESTIONS = {
    q.id: q
    for q in (
        Question("l", "d", "test", "long", "What is flu?", reference="a viral infection"),
        Question("u", "d", "test", "long", "No reference?"),
        Question("m", "d", "test", "mcq", "Which?", options=("x", "y"), answer_index=1),
    )
}
CANDIDATES = [
    Candidate("l", "e", 0, "viral infection"),
    Candidate("m", "e", 0, "B", choice_index=1),
    Candidate("u", "e", 0, "text"),
    Candidate("l", "e", 1, ""),
    Candidate("m", "f", 0, "?", choice_index=None),
]


def test_every_metric_goes_to_the_candidates_it_applies_to():
    scores = list(score_candidates(QUESTIONS, CANDIDATES, ["rougeL", "correct"]))
    expected = rouge_l(["viral infection"], ["a viral infection"])[0]
    assert scores == [
        Score("l", "e", 0, "rougeL", expected),
        Score("l", "e", 1, "rougeL", 0.0),
        Score("m", "e", 0, "correct", 1.0),
        Score("m", "f", 0, "correct", 0.0),
    ]


def test_no_candidates_no_scores():
    assert list(score_candidates(QUESTIONS, [], list(METRICS))) == []


def test_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="did you mean 'rougeL'"):
        list(score_candidates(QUESTIONS, CANDIDATES, ["rougel"]))


def test_all_registered_metrics_load_and_give_finite_values():
    assert len(METRICS) == len(METRIC_SPECS) > 0
    for score in score_candidates(QUESTIONS, CANDIDATES, list(METRICS)):
        assert math.isfinite(score.value)
