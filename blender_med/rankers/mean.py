"""The mean of several rankers, for rankers that err in different places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import ConfigError
from blender_med.rankers.aggregate import ranks
from blender_med.rankers.base import Advance, RankedCandidates, Ranker, Rankings, check_candidates

_ROUNDING = 1e-7  # relative; scores that differ by less are equal


class MeanRanker:
    """Orders candidates by the weighted mean of their standard scores.

    The scores of each ranker are standardised within a question (mean 0, deviation 1; all 0 where
    they are equal), so that their scales do not matter.

    Args:
        rankers: At least one, each with the keyword arguments of its ``rank``.
        weights: Of the rankers, above 0; None: equal ones.

    Raises:
        ConfigError: No ranker, or not one positive weight for each.
    """

    def __init__(
        self,
        rankers: Sequence[tuple[Ranker, Mapping[str, Any]]],
        weights: Sequence[float] | None = None,
    ) -> None:
        given = [1.0] * len(rankers) if weights is None else [float(w) for w in weights]
        if not rankers or len(given) != len(rankers) or min(given) <= 0:
            fix = "give a ranker or more, and one positive weight for each"
            raise ConfigError("no mean of these rankers", key="weights", value=weights, fix=fix)
        self._rankers = list(rankers)
        self._weights = given

    def rank(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> Rankings:
        """Rankings in the order of ``sources``; comparisons and tokens are those of all rankers.

        Args:
            sources: Questions, [n].
            candidates: Of each question, at least one, [n][k]; k may differ.
            advance: Called with the number of questions done, when all rankers are.

        Raises:
            DataError: A question has no candidate, or a text is no string.
        """
        check_candidates(sources, candidates)
        parts = [ranker.rank(sources, candidates, **own) for ranker, own in self._rankers]
        if advance is not None:
            advance(len(sources))
        return [mean_ranking(own, self._weights) for own in zip(*parts, strict=True)]


def mean_ranking(
    parts: Sequence[RankedCandidates], weights: Sequence[float] | NDArray[np.float64]
) -> RankedCandidates:
    """The mean of several rankings of the same candidates.

    Args:
        parts: Of each ranker; their ranks are not looked at.
        weights: Of the rankers, above 0.
    """
    scores = np.average([standard_scores(own.scores) for own in parts], axis=0, weights=weights)
    # Rounding, so that equal texts tie whatever the rounding of their parts.
    kept = tuple(float(score) for score in scores.round(9))
    return RankedCandidates(
        kept,
        ranks(kept),
        comparisons=sum(own.comparisons for own in parts),
        tokens=sum(own.tokens for own in parts),
    )


def standard_scores(scores: Sequence[float]) -> NDArray[np.float64]:
    """Scores with mean 0 and standard deviation 1, [n]; all 0 where they are equal."""
    values = np.asarray(scores, dtype=np.float64)
    deviation = values.std()
    differ = deviation > _ROUNDING * np.abs(values).max(initial=0.0)
    return (values - values.mean()) / deviation if differ else np.zeros_like(values)
