"""How well a ranker orders candidates whose labels are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blender_med.data.pairs import RankingExample
from blender_med.metrics.ranking import RANKING_METRICS, pairwise_accuracy

Floats = NDArray[np.float64]

ACCURACY = "eval_pairwise_accuracy"

EMPTY: Mapping[str, Any] = MappingProxyType({})


def dev_accuracy(
    ranker: Any, examples: Sequence[RankingExample], settings: Mapping[str, Any] = EMPTY
) -> float:
    """Mean pairwise accuracy over questions and tasks, 0 to 1.

    A question whose labels in a task are all equal has no accuracy there. ``settings`` are
    keyword arguments of the ranker's ``rank``.
    """
    return _mean(ranker_scores(ranker, examples, settings), examples, pairwise_accuracy)


def dev_figures(ranker: Any, examples: Sequence[RankingExample]) -> dict[str, float]:
    """Means over questions and tasks of every metric of ``blender_med.metrics.ranking``."""
    scores = ranker_scores(ranker, examples)
    return {name: _mean(scores, examples, metric) for name, metric in RANKING_METRICS.items()}


def ranker_scores(
    ranker: Any, examples: Sequence[RankingExample], settings: Mapping[str, Any] = EMPTY
) -> list[Floats]:
    """Scores that a ranker gives the candidates of each example, higher is better, [n] each."""
    sources, candidates = [e.source for e in examples], [e.candidates for e in examples]
    rankings = ranker.rank(sources, candidates, **settings)
    return [np.array(ranking.scores) for ranking in rankings]


def _mean(
    scores: Sequence[Floats],
    examples: Sequence[RankingExample],
    metric: Callable[[ArrayLike, ArrayLike], float],
) -> float:
    values = [
        metric(own, labels)
        for own, example in zip(scores, examples, strict=True)
        for labels in example.labels.T
    ]
    return float(np.nanmean(values))
