"""How sure a ranker may be that its first candidate is the best: a calibrated probability.

Logistic regression on how far the first candidate stands ahead, with the smoothed targets of
Platt 1999 (section 2.2), so that few questions do not make it too sure. It looks at scores alone
and therefore fits every ranker.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from blender_med.config import Recipe, parse
from blender_med.errors import DataError

Floats = NDArray[np.float64]
Four = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]

# Fewer questions, or fewer of either outcome, say too little about a probability.
MIN_QUESTIONS, MIN_OUTCOMES = 30, 5
# The first three features may only add certainty; being alone may speak either way.
_BOUNDS = [(0.0, None)] * 3 + [(None, None)] * 2


class Confidence(Recipe):
    """Probability that the candidate with the highest score is the best of its question.

    Made by :meth:`fit`. It never falls when the highest score rises, and beyond the features
    that were seen in fitting it stays what it was at their end.

    Attributes:
        unit: What a score is divided by: the spread of the scores within a question.
        low: Least value of each feature that was seen: first score, its lead over the second,
            its log-odds against all others in a softmax, 1 for a candidate without rivals.
        high: Greatest value of each.
        weights: Of the features.
        bias: Log-odds at features of 0.
    """

    unit: Annotated[FiniteFloat, Field(gt=0)]
    low: Four
    high: Four
    weights: Four
    bias: FiniteFloat

    @classmethod
    def fit(cls, scores: Sequence[Sequence[float]], is_best: Sequence[bool]) -> Confidence:
        """Learn from questions whose best candidate is known; not those that it is judged on.

        Args:
            scores: A ranker's scores of the distinct candidates of each question, higher is
                better; their number may differ. Equal texts count as one candidate.
            is_best: Whether no candidate of the question is better than the one with the highest
                score, [questions].

        Raises:
            DataError: There are too few questions (see :func:`shortage`), a question has no
                candidate, a score is not finite, or the lengths differ.
        """
        if len(scores) != len(is_best):
            problem = f"{len(scores)} questions but {len(is_best)} outcomes"
            raise DataError(problem, fix="give one outcome for each question")
        if lacking := shortage(is_best):
            fix = "label more questions, or do without a confidence"
            raise DataError(f"too little to learn a confidence from: {lacking}", fix=fix)
        unit = _spread(scores)
        features = np.array([_features(own, unit) for own in scores])
        low, high = _ranges(features)
        weights, bias = _fitted(np.clip(features, low, high), np.asarray(is_best, dtype=np.float64))
        return cls(unit=unit, low=_four(low), high=_four(high), weights=_four(weights), bias=bias)

    def __call__(self, scores: Sequence[float]) -> float:
        """Probability that the candidate with the highest score is the best, 0..1.

        Args:
            scores: Of the distinct candidates of one question, n >= 1.

        Raises:
            DataError: There is no candidate, or a score is not finite.
        """
        features = np.clip(_features(scores, self.unit), self.low, self.high)
        return float(1 / (1 + np.exp(-(features @ np.array(self.weights) + self.bias))))

    def to_json(self) -> str:
        """The fitted numbers as a JSON object."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Confidence:
        """A confidence from what :meth:`to_json` gave.

        Raises:
            DataError: The text is no JSON.
            ConfigError: It is not that of a confidence.
        """
        try:
            tree = json.loads(text)
        except ValueError as error:
            fix = "give the text that to_json wrote"
            raise DataError(f"not JSON: {error}", value=text[:80], fix=fix) from error
        return parse(cls, tree)


def shortage(is_best: Sequence[bool]) -> str | None:
    """Why these outcomes are too few to learn from, or None where they are enough."""
    right = sum(map(bool, is_best))
    wrong = len(is_best) - right
    if len(is_best) >= MIN_QUESTIONS and min(right, wrong) >= MIN_OUTCOMES:
        return None
    return (
        f"{len(is_best)} labelled questions, the first candidate the best in {right};"
        f" it takes {MIN_QUESTIONS}, with {MIN_OUTCOMES} of either outcome"
    )


def _spread(scores: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the scores about their question's mean; 1 where all are equal."""
    groups = [_checked(own) for own in scores]
    centred = np.concatenate([own - own.mean() for own in groups if len(own) > 1] or [np.zeros(1)])
    return float(np.sqrt(np.square(centred).mean())) or 1.0


def _features(scores: Sequence[float], unit: float) -> Floats:
    """See :class:`Confidence`; the lead of a candidate without rivals is infinite, [4]."""
    first, *others = sorted(_checked(scores) / unit, reverse=True)
    if not others:
        return np.array([first, np.inf, np.inf, 1.0])
    return np.array([first, first - others[0], first - np.logaddexp.reduce(others), 0.0])


def _checked(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        fix = "give the finite scores of at least one candidate"
        raise DataError("no scores to be sure of", value=scores, fix=fix)
    return values


def _ranges(features: Floats) -> tuple[Floats, Floats]:
    """Least and greatest finite value of each feature, [4] each; 0 where none is finite."""
    finite = np.isfinite(features)
    is_seen = finite.any(axis=0)
    low = np.where(finite, features, np.inf).min(axis=0)
    high = np.where(finite, features, -np.inf).max(axis=0)
    return np.where(is_seen, low, 0.0), np.where(is_seen, high, 0.0)


def _fitted(features: Floats, is_best: Floats) -> tuple[Floats, float]:
    """Weights and bias of the penalised maximum likelihood.

    The weights of the standardised features have a standard normal prior.
    """
    from scipy.optimize import minimize

    right, wrong = is_best.sum(), (1 - is_best).sum()
    targets = np.where(is_best > 0, (right + 1) / (right + 2), 1 / (wrong + 2))
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1.0
    rows = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
    is_weight = np.array([1.0, 1.0, 1.0, 1.0, 0.0])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logits, penalised = rows @ parameters, parameters * is_weight
        value = (np.logaddexp(0, logits) - targets * logits).sum() + penalised @ penalised / 2
        return float(value), rows.T @ (1 / (1 + np.exp(-logits)) - targets) + penalised

    best = minimize(loss, np.zeros(5), jac=True, bounds=_BOUNDS, method="L-BFGS-B").x
    weights = best[:4] / deviation
    return weights, float(best[4] - weights @ mean)


def _four(values: Floats) -> Four:
    first, second, third, fourth = values.tolist()
    return first, second, third, fourth
