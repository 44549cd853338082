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


LIGHT = [name for name, spec in METRIC_SPECS.items() if spec.model is None]


class CountingScorer:
    """Gives the number of characters of the candidate, plus one per metric."""

    def __init__(self):
        self.calls = []

    def use_references(self, references):
        raise AssertionError("the stage does that")

    def scores(self, candidates, references, names, advance=None):
        self.calls.append((list(candidates), list(references), list(names)))
        for _ in range(2):
            advance(0.5)
        return {name: [len(c) + i for c in candidates] for i, name in enumerate(names)}


def test_no_candidates_no_scores():
    assert list(score_candidates(QUESTIONS, [], list(METRICS))) == []


def test_metrics_of_one_model_are_computed_together_and_in_place():
    scorers = {"bertscore": CountingScorer(), "bartscore": CountingScorer()}
    shares = []
    names = ["bertscore_f1", "length", "bartscore", "bertscore_p"]
    scores = list(
        score_candidates(QUESTIONS, CANDIDATES, names, scorers.__getitem__, shares.append)
    )
    assert [(s.metric, s.sample, s.value) for s in scores] == [
        ("bertscore_f1", 0, 15), ("bertscore_f1", 1, 0), ("length", 0, 2), ("length", 1, 0),
        ("bartscore", 0, 15), ("bartscore", 1, 0), ("bertscore_p", 0, 16), ("bertscore_p", 1, 1),
    ]  # fmt: skip
    texts = (["viral infection", ""], ["a viral infection"] * 2)
    assert scorers["bertscore"].calls == [(*texts, ["bertscore_f1", "bertscore_p"])]
    assert scorers["bartscore"].calls == [(*texts, ["bartscore"])]
    assert shares == [0.25] * 4


def test_no_model_is_asked_for_without_a_text():
    multiple_choice = [c for c in CANDIDATES if c.question_id == "m"]
    names = ["bertscore_f1", "correct"]
    scores = list(score_candidates(QUESTIONS, multiple_choice, names))
    assert [s.metric for s in scores] == ["correct", "correct"]
    with pytest.raises(ValueError, match="'bertscore_f1' needs a model"):
        list(score_candidates(QUESTIONS, CANDIDATES, names))


def test_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="did you mean 'rougeL'"):
        list(score_candidates(QUESTIONS, CANDIDATES, ["rougel"]))


def test_all_registered_metrics_load_and_give_finite_values():
    assert len(METRICS) == len(METRIC_SPECS) > len(LIGHT) > 0
    for score in score_candidates(QUESTIONS, CANDIDATES, LIGHT):
        assert math.isfinite(score.value)
