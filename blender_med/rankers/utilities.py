"""The additive model of pairwise logits: M_ij = u_i - u_j + b + noise.

u is the utility of a candidate, b the advantage of standing first. A ranker whose verdicts are
transitive follows it closely, so few comparisons tell the others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class AdditiveFit(NamedTuple):
    """Least-squares fit to the comparisons made.

    Attributes:
        predicted: Logits of all ordered pairs, [n, n]; 0 on the diagonal.
        spread: Inverse of the normal equations, [n + 1, n + 1]: times the noise's variance, the
            covariance of utilities and advantage.
        squares: Sum of squared residuals.
        freedom: Comparisons beyond the parameters that they fix; 0: the fit is exact.
    """

    predicted: Floats
    spread: Floats
    squares: float
    freedom: int


def additive_fit(logits: Floats) -> AdditiveFit:
    """Fit the model to the entries of ``logits``, [n, n], that are not NaN.

    Candidates that no chain of comparisons connects get the utilities of least norm; without any
    comparison all are 0. The diagonal is not looked at.
    """
    size = len(logits)
    known = ~np.isnan(logits) & ~np.eye(size, dtype=bool)
    rows = design(size)[known.ravel()]
    spread = np.linalg.pinv(rows.T @ rows, hermitian=True)
    target = logits[known].astype(np.float64)
    parameters = spread @ rows.T @ target
    predicted = (design(size) @ parameters).reshape(size, size)
    np.fill_diagonal(predicted, 0.0)
    squares = float(np.square(predicted[known] - target).sum())
    rank = round(float(np.trace(spread @ (rows.T @ rows))))
    return AdditiveFit(predicted, spread, squares, len(target) - rank)


@lru_cache(maxsize=64)
def design(size: int) -> Floats:
    """What each ordered pair (row i * n + j) takes of u_1 .. u_n and b, [n * n, n + 1]."""
    eye = np.eye(size)
    utilities = (eye[:, None] - eye[None, :]).reshape(size * size, size)
    matrix = np.concatenate([utilities, np.ones((size * size, 1))], axis=1)
    matrix.flags.writeable = False
    return matrix
