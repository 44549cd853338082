"""The fewest comparisons that settle the first places, as MaxLogits over all pairs would.

Every candidate meets four others. The additive model (:mod:`blender_med.rankers.utilities`)
then predicts what the other comparisons would say, and how far that may be wrong; those that
matter to a place not yet settled are made, until none is open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blender_med.rankers.utilities import AdditiveFit, Floats, additive_fit, design

# A place is settled when its score differs by so many standard deviations.
_SETTLED = 2.0
# Noise that is expected before residuals are seen: its share of the spread of the logits, and
# the number of residuals that this expectation is worth.
_EXPECTED_NOISE = 0.2
_EXPECTATION_WEIGHT = 4


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
        fit = additive_fit(logits)
        filled = np.where(np.isnan(logits), fit.predicted, logits)
        order = np.argsort(-(filled - filled.T).mean(axis=1), kind="stable")
        weights = _differences(len(logits), _rivals(order, self.top_k))
        is_open = _open(weights, filled, np.isnan(logits), fit)
        return _most_telling(weights[is_open], np.isnan(logits))


def _opening(size: int) -> list[tuple[int, int]]:
    """Two rings: each candidate stands twice first and twice second, against four others."""
    strides = sorted({1, max(1, round(0.382 * size))} if size > 2 else {1})
    return [(i, (i + stride) % size) for stride in strides for i in range(size)]


def _rivals(order: NDArray[np.intp], top_k: int) -> NDArray[np.intp]:
    """Pairs (ahead, behind) whose order the result rests on, [pairs, 2]."""
    first = [(order[0], other) for other in order[1:]]
    inside, outside = order[:top_k], order[top_k:]
    return np.array(list(dict.fromkeys([*first, *((a, b) for a in inside for b in outside)])))


def _differences(size: int, rivals: NDArray[np.intp]) -> Floats:
    """What each logit adds to the difference of the rivals' scores, [pairs, n * n]."""
    share = (np.eye(size)[:, :, None] - np.eye(size)[:, None, :]) / size
    return (share[rivals[:, 0]] - share[rivals[:, 1]]).reshape(len(rivals), size * size)


def _open(weights: Floats, filled: Floats, unknown: NDArray[np.bool_], fit: AdditiveFit) -> Floats:
    """Which differences of scores could be wrong in sign, [pairs]."""
    predicted = weights * unknown.ravel()
    by_fit = predicted @ design(len(filled))
    variance = np.square(predicted).sum(axis=1) + ((by_fit @ fit.spread) * by_fit).sum(axis=1)
    return weights @ filled.ravel() < _SETTLED * np.sqrt(variance * _noise(filled, fit))


def _noise(filled: Floats, fit: AdditiveFit) -> float:
    """Variance of a logit about the model: the residuals', drawn towards what is expected."""
    expected = _EXPECTED_NOISE**2 * np.square(filled).mean()
    total = fit.squares + _EXPECTATION_WEIGHT * expected
    return float(total / (fit.freedom + _EXPECTATION_WEIGHT))


def _most_telling(weights: Floats, unknown: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The unknown logits with the greatest share in the open differences."""
    size = len(unknown)
    share = np.square(weights).sum(axis=0) * unknown.ravel()
    most = np.argsort(-share, kind="stable")[: max(2, size // 2)]
    return [(int(k) // size, int(k) % size) for k in most if share[k] > 0]
