"""How well scores order the candidates of a question, against true labels.

Every function takes the scores of one question's candidates and their labels, [n] each, both
higher is better, and returns one number. Candidates with equal scores count as if their order
were drawn at random: the number is the expectation. Where nothing can be ordered (one candidate,
or equal labels) ``pairwise_accuracy``, ``spearman`` and ``ndcg`` are NaN; means over questions
leave NaN out.

All raise ValueError where the two lengths differ, there is no candidate, or a value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pairwise_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of the pairs with different labels that the scores put in the right order, 0..1.

    A pair of equal scores counts one half: this is (1 + Somers' D) / 2.
    """
    predicted, true = _checked(scores, labels)
    first, second = np.triu_indices(len(true), 1)
    order = np.sign(true[first] - true[second])
    agreement = order * np.sign(predicted[first] - predicted[second])
    return _mean((1 + agreement[order != 0]) / 2)


def spearman(scores: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's rank correlation, -1..1; equal values share the mean of their ranks.

    Equal scores of all candidates say nothing: 0.
    """
    from scipy.stats import spearmanr

    predicted, true = _checked(scores, labels)
    if _all_equal(true):
        return float("nan")
    return 0.0 if _all_equal(predicted) else float(spearmanr(predicted, true).statistic)


def ndcg(scores: ArrayLike, labels: ArrayLike, k: int | None = None) -> float:
    """Normalised discounted cumulative gain of the first ``k`` (None: all), 0..1.

    Järvelin and Kekäläinen 2002, with the logarithm to base 2 from rank 1. The gain is the label
    itself; where a label is below 0, as log-likelihoods are, the gain is the distance from the
    question's worst label.
    """
    from sklearn.metrics import ndcg_score

    predicted, true = _checked(scores, labels)
    if _all_equal(true):
        return float("nan")
    gains = true - min(0.0, float(true.min()))
    return float(ndcg_score(gains[None], predicted[None], k=k))


def regret(scores: ArrayLike, labels: ArrayLike) -> float:
    """Best label minus the label of the candidate with the highest score; >= 0, lower is better."""
    predicted, true = _checked(scores, labels)
    return float(true.max() - true[predicted == predicted.max()].mean())


def top1_hit(scores: ArrayLike, labels: ArrayLike) -> float:
    """Whether the candidate with the highest score has the best label, 0..1."""
    predicted, true = _checked(scores, labels)
    return float((true[predicted == predicted.max()] == true.max()).mean())


RANKING_METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "pairwise_accuracy": pairwise_accuracy,
    "spearman": spearman,
    "ndcg": ndcg,
    "regret": regret,
    "top1_hit": top1_hit,
}


def ranking_quality(scores: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> dict[str, Floats]:
    """Every ranking metric of every question.

    Args:
        scores: Scores of the candidates of each question; their number may differ.
        labels: Labels in the same arrangement.

    Returns:
        Name to values, [questions]; what a mean or a bootstrap interval is taken of.
    """
    pairs = list(zip(scores, labels, strict=True))
    return {name: _column(f(s, t) for s, t in pairs) for name, f in RANKING_METRICS.items()}


def _column(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    predicted, true = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(f"scores of shape {predicted.shape} for labels of shape {true.shape}")
    if not len(true):
        raise ValueError("there is no candidate")
    if np.isnan(predicted).any() or np.isnan(true).any():
        raise ValueError("a score or label is NaN: leave that candidate out")
    return predicted, true


def _all_equal(values: Floats) -> bool:
    return bool((values == values[0]).all())


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
