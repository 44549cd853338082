"""From pairwise comparisons to scores and ranks.

Every function takes the logits M, [n, n]: M[i, j] > 0 means that i, standing first, beats j.
NaN marks a comparison that was not made; the diagonal is not looked at. Scores are [n], higher
is better; one candidate has the score 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from blender_med.errors import ConfigError
from blender_med.rankers.utilities import Floats, predicted
from blender_med.registry import suggestion

_RIDGE = 1e-3
_NEWTON_STEPS = 50


def ranks(scores: Sequence[float] | Floats) -> tuple[int, ...]:
    """Rank of each score: 1 is the highest, ties share the lower number (1, 2, 2, 4)."""
    values = np.asarray(scores)
    return tuple(int(np.sum(values > value)) + 1 for value in values)


def completed(logits: Floats) -> Floats:
    """``logits`` with 0 on the diagonal and, where a comparison was not made, its prediction.

    The others predict it; see :func:`utilities.predicted`.
    """
    known = np.where(np.eye(len(logits), dtype=bool), 0.0, logits.astype(np.float64))
    missing = np.isnan(known)
    return predicted(known).logits if missing.any() else known


def max_logits(logits: Floats) -> Floats:
    """MaxLogits (Jiang et al. 2023, section 3.4): s_i = mean_j (M_ij - M_ji) over all n columns.

    Comparisons that were not made are predicted, see :func:`completed`.
    """
    matrix = completed(logits)
    return (matrix - matrix.T).mean(axis=1)


def max_wins(logits: Floats) -> Floats:
    """Number of won comparisons, #{M_ij > 0} + #{M_ji < 0}, both orders counted.

    Comparisons that were not made are predicted, see :func:`completed`.
    """
    matrix = completed(logits)
    return ((matrix > 0).sum(axis=1) + (matrix < 0).sum(axis=0)).astype(np.float64)


def bradley_terry(logits: Floats) -> Floats:
    """Log-abilities of the Bradley-Terry model (1952) with soft outcomes sigmoid(M_ij).

    Comparisons that were not made are left out. The likelihood is concave; a ridge of 1e-3 keeps
    it finite where one candidate wins every comparison and centres the abilities on 0.
    """
    from scipy.special import expit  # does not overflow, however sure a comparison is

    size = len(logits)
    matrix = np.where(np.eye(size, dtype=bool), np.nan, logits).astype(np.float64)
    known = ~np.isnan(matrix)
    won = np.where(known, expit(np.where(known, matrix, 0.0)), 0.0)
    wins = won + np.where(known, 1 - won, 0.0).T
    played = known.astype(np.float64) + known.T
    ability = np.zeros(size)
    for _ in range(_NEWTON_STEPS):
        expected = expit(ability[:, None] - ability[None, :])
        gradient = (wins - played * expected).sum(axis=1) - _RIDGE * ability
        weight = played * expected * (1 - expected)
        hessian = np.diag(weight.sum(axis=1) + _RIDGE) - weight
        step = np.linalg.solve(hessian, gradient)
        ability = ability + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return ability


AGGREGATIONS: dict[str, Callable[[Floats], Floats]] = {
    "max_logits": max_logits,
    "max_wins": max_wins,
    "bradley_terry": bradley_terry,
}


def aggregation(name: str) -> Callable[[Floats], Floats]:
    """The aggregation of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in AGGREGATIONS:
        fix = suggestion(name, AGGREGATIONS)
        raise ConfigError("unknown aggregation", key="aggregation", value=name, fix=fix)
    return AGGREGATIONS[name]
