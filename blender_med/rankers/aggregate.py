"""From pairwise comparisons to scores and ranks.

Every function takes the logits M, [n, n]: M[i, j] > 0 means that i, standing first, beats j.
NaN marks a comparison that was not made; the diagonal is not looked at. Scores are [n], higher
is better; one candidate has the score 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import ConfigError
from blender_med.registry import suggestion

Floats = NDArray[np.floating]

_RIDGE = 1e-3
_NEWTON_STEPS = 50


def ranks(scores: Sequence[float] | Floats) -> tuple[int, ...]:
    """Rank of each score: 1 is the highest, ties share the lower number (1, 2, 2, 4)."""
    values = np.asarray(scores)
    return tuple(int(np.sum(values > value)) + 1 for value in values)


def preferences(logits: Floats) -> Floats:
    """Antisymmetric margins, [n, n]: the mean of both orders, or the one that was compared.

    Positive: row beats column. NaN where neither order was compared, 0 on the diagonal.
    """
    both = np.stack([logits, -logits.T]).astype(np.float64)
    known = ~np.isnan(both)
    total = np.where(known, both, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    margins = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    np.fill_diagonal(margins, 0.0)
    return margins


def max_logits(logits: Floats) -> Floats:
    """MaxLogits (Jiang et al. 2023, section 3.4): s_i = mean_j (M_ij - M_ji) over all n columns.

    Comparisons that were not made are filled with the difference of two utilities fitted to
    the others (:func:`fitted_utilities`).
    """
    if not np.isnan(logits[~np.eye(len(logits), dtype=bool)]).any():
        matrix = np.where(np.eye(len(logits), dtype=bool), 0.0, logits)
        return (matrix - matrix.T).mean(axis=1, dtype=np.float64)
    margins = preferences(logits)
    utilities = fitted_utilities(margins)
    filled = np.where(np.isnan(margins), utilities[:, None] - utilities[None, :], margins)
    return 2 * filled.mean(axis=1)


def max_wins(logits: Floats) -> Floats:
    """Number of won comparisons, #{M_ij > 0} + #{M_ji < 0}, both orders counted."""
    matrix = np.where(np.eye(len(logits), dtype=bool) | np.isnan(logits), 0.0, logits)
    return ((matrix > 0).sum(axis=1) + (matrix < 0).sum(axis=0)).astype(np.float64)


def bradley_terry(logits: Floats) -> Floats:
    """Log-abilities of the Bradley-Terry model (1952) with soft outcomes sigmoid(M_ij).

    The likelihood is concave; a ridge of 1e-3 keeps it finite where one candidate wins every
    comparison and centres the abilities on 0.
    """
    size = len(logits)
    matrix = np.where(np.eye(size, dtype=bool), np.nan, logits).astype(np.float64)
    known = ~np.isnan(matrix)
    won = np.where(known, 1 / (1 + np.exp(-np.where(known, matrix, 0.0))), 0.0)
    wins = won + np.where(known, 1 - won, 0.0).T
    played = known.astype(np.float64) + known.T
    ability = np.zeros(size)
    for _ in range(_NEWTON_STEPS):
        expected = 1 / (1 + np.exp(ability[None, :] - ability[:, None]))
        gradient = (wins - played * expected).sum(axis=1) - _RIDGE * ability
        weight = played * expected * (1 - expected)
        hessian = np.diag(weight.sum(axis=1) + _RIDGE) - weight
        step = np.linalg.solve(hessian, gradient)
        ability = ability + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return ability


def fitted_utilities(margins: Floats) -> Floats:
    """Least-squares utilities u with u_i - u_j close to the known margins, [n], mean 0.

    Candidates that no chain of comparisons connects get the utilities of least norm.
    """
    size = len(margins)
    left, right = np.nonzero(~np.isnan(margins) & ~np.eye(size, dtype=bool))
    if not left.size:
        return np.zeros(size)
    weight = np.zeros((size, size))
    weight[left, right] = 1.0
    target = np.where(weight > 0, margins, 0.0).sum(axis=1)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    utilities = np.linalg.lstsq(laplacian, target, rcond=None)[0]
    return utilities - utilities.mean()


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
