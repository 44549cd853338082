"""The fewest comparisons that settle the first places, as MaxLogits over all pairs would.

Every candidate meets four others. A model (:mod:`blender_med.rankers.utilities`) then predicts
what the other comparisons would say, and how far that may be wrong; those that tell most of the
places not yet settled are made, until none is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blender_med.rankers.utilities import Floats, Prediction, predicted

# A place is settled when its score differs by so many standard deviations: the first, and the set
# of the first ones.
_FIRST_SETTLED = 2.5
_SET_SETTLED = 2.25
# Noise that is expected before residuals are seen: its share of the spread of the logits, and
# the number of residuals that this expectation is worth.
_EXPECTED_NOISE = 0.3
_EXPECTATION_WEIGHT = 8
_NOTHING = 1e-9  # variance that is rounding


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The strategy that settles the first place and the set of the first ``top_k``.

    Attributes:
        top_k: Places; those within them are ordered as far as the comparisons made tell.
    """

    top_k: int

    def __call__(self, logits: Floats) -> list[tuple[int, int]]:
        """Pairs to compare next; see :mod:`blender_med.rankers.strategies`."""
        if len(logits) == 1:
            return []
        if np.isnan(logits).sum() == len(logits) * (len(logits) - 1):
            return _opening(len(logits))
        known = predicted(logits)
        order = np.argsort(-(known.logits - known.logits.T).mean(axis=1), kind="stable")
        weights = _differences(len(logits), _rivals(order, self.top_k))
        is_open = _open(weights, known)
        return _most_telling(weights[is_open], known.covariance)


def _opening(size: int) -> list[tuple[int, int]]:
    """Two rings: each candidate stands twice first and twice second, against four others."""
    strides = sorted({1, max(1, round(0.382 * size))} if size > 2 else {1})
    return [(i, (i + stride) % size) for stride in strides for i in range(size)]


def _rivals(order: NDArray[np.intp], top_k: int) -> NDArray[np.intp]:
    """Pairs (ahead, behind) whose order the result rests on, the first's own first, [pairs, 2]."""
    first = [(order[0], other) for other in order[1:]]
    inside, outside = order[:top_k], order[top_k:]
    return np.array(list(dict.fromkeys([*first, *((a, b) for a in inside for b in outside)])))


def _differences(size: int, rivals: NDArray[np.intp]) -> Floats:
    """What each logit adds to the difference of the rivals' scores, [pairs, n * n]."""
    share = (np.eye(size)[:, :, None] - np.eye(size)[:, None, :]) / size
    return (share[rivals[:, 0]] - share[rivals[:, 1]]).reshape(len(rivals), size * size)


def _open(weights: Floats, known: Prediction) -> NDArray[np.bool_]:
    """Which differences of scores could be wrong in sign, [pairs]."""
    variance = ((weights @ known.covariance) * weights).sum(axis=1).clip(min=0)
    wanted = np.full(len(weights), _SET_SETTLED)
    wanted[: len(known.logits) - 1] = _FIRST_SETTLED  # the first against each of the others
    spread = np.sqrt(variance * _noise(known))
    is_open: NDArray[np.bool_] = weights @ known.logits.ravel() < wanted * spread
    return is_open


def _noise(known: Prediction) -> float:
    """Variance of a logit about the model: the residuals', drawn towards what is expected."""
    expected = _EXPECTED_NOISE**2 * np.square(known.logits).mean()
    total = known.squares + _EXPECTATION_WEIGHT * expected
    return float(total / (known.freedom + _EXPECTATION_WEIGHT))


def _most_telling(weights: Floats, covariance: Floats) -> list[tuple[int, int]]:
    """Comparisons that take most of the variance of these differences, one given the others."""
    size = math.isqrt(len(covariance))
    chosen: list[tuple[int, int]] = []
    while len(weights) and len(chosen) < max(2, size // 2):
        own = covariance.diagonal()
        taken = np.square(weights @ covariance).sum(axis=0) / np.where(own > _NOTHING, own, np.inf)
        best = int(taken.argmax())
        if taken[best] <= _NOTHING:
            break
        chosen.append(divmod(best, size))
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / own[best]
    return chosen
