"""What some pairwise logits tell of the others: M_ij = u_i - u_j + b + c_i + c_j + noise.

u is the utility of a candidate, b the advantage of standing first, c how much more (or less) of it
a candidate gives and takes. A ranker whose verdicts are transitive follows this closely, so few
comparisons tell the others. u and b may be anything; c is drawn about 0, with ``PLACED`` times the
variance of the noise. Predictions are the best linear unbiased ones (universal kriging).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Seen: 0.5 and 0.7, of a trained ranker on two kinds of candidates.
PLACED = 0.5
_RANK = 1e-9  # smaller eigenvalues, of the largest, are rounding


class Prediction(NamedTuple):
    """All logits of a question, from the comparisons made.

    Attributes:
        logits: Those of the comparisons made, and the expectation of the others, [n, n]; 0 on
            the diagonal.
        covariance: Of all logits (row i * n + j) in units of the noise's variance,
            [n * n, n * n]; 0 where a comparison was made.
        squares: Sum of squared residuals of the fit of u and b, decorrelated.
        freedom: Comparisons beyond the parameters that they fix; 0: the fit is exact.
    """

    logits: Floats
    covariance: Floats
    squares: float
    freedom: int


def predicted(logits: Floats) -> Prediction:
    """Predict the entries of ``logits``, [n, n], that are NaN.

    Candidates that no chain of comparisons connects get the utilities of least norm; without any
    comparison all are 0. The diagonal is not looked at.
    """
    size = len(logits)
    known = (~np.isnan(logits) & ~np.eye(size, dtype=bool)).ravel()
    model, other = design(size), departures(size)
    rows, target = model[known], logits.ravel()[known].astype(np.float64)
    precision = np.linalg.inv(other[np.ix_(known, known)])
    information = rows.T @ precision @ rows
    spread = np.linalg.pinv(information, rcond=_RANK, hermitian=True)
    parameters = spread @ (rows.T @ (precision @ target))
    residual = target - rows @ parameters
    gain = other[:, known] @ precision
    filled = model @ parameters + gain @ residual
    filled[known] = target  # exactly
    unexplained = model - gain @ rows
    covariance = other - gain @ other[known] + unexplained @ spread @ unexplained.T
    squares = float(residual @ precision @ residual)
    freedom = len(target) - round(float(np.trace(spread @ information)))
    return Prediction(filled.reshape(size, size), covariance, squares, freedom)


@lru_cache(maxsize=16)
def design(size: int) -> Floats:
    """What each ordered pair (row i * n + j) takes of u_1 .. u_n and b, [n * n, n + 1].

    A candidate and itself take nothing.
    """
    eye = np.eye(size)
    utilities = (eye[:, None] - eye[None, :]).reshape(size * size, size)
    matrix = np.concatenate([utilities, 1 - eye.reshape(-1, 1)], axis=1)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=16)
def departures(size: int) -> Floats:
    """Covariance of what the model with u and b alone leaves, in units of the noise's variance.

    [n * n, n * n]; 0 for a candidate and itself.
    """
    both = np.abs(design(size)[:, :size])
    matrix = PLACED * both @ both.T + np.diag(both.max(axis=1))
    matrix.flags.writeable = False
    return matrix
