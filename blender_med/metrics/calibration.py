"""Whether a confidence means what it says, and what answering only the surest questions gains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class RiskCoverage(NamedTuple):
    """Risk of answering only the questions of at least some confidence.

    One entry per distinct confidence, highest first, [thresholds] each: questions of at least
    ``threshold`` are answered; ``coverage`` is their share, ``risk`` their mean loss.
    """

    threshold: Floats
    coverage: Floats
    risk: Floats


def risk_coverage(confidence: ArrayLike, losses: ArrayLike) -> RiskCoverage:
    """Risk-coverage curve (El-Yaniv and Wiener 2010).

    Args:
        confidence: Higher is surer, on any scale, [n].
        losses: Lower is better, such as 1 - correct, [n].

    Returns:
        The curve; its last coverage is 1. Questions of equal confidence are answered together.

    Raises:
        ValueError: The lengths differ, there is no question, or a value is NaN.
    """
    sure, loss = _sorted(confidence, losses)
    ends = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)
    counts = ends + 1
    return RiskCoverage(sure[ends], counts / len(sure), np.cumsum(loss)[ends] / counts)


def aurc(confidence: ArrayLike, losses: ArrayLike) -> float:
    """Area under the risk-coverage curve; lower is better.

    The mean of the risks at coverages 1/n, 2/n, ..., 1 (Geifman, Uziel and El-Yaniv 2019, eq. 5).
    Questions of equal confidence count with their mean loss, which is the expectation over their
    orders: equal confidence everywhere gives the mean loss. Arguments and errors as of
    :func:`risk_coverage`.
    """
    sure, loss = _sorted(confidence, losses)
    _, group, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    even = (np.bincount(group, loss) / sizes)[group]
    return float((np.cumsum(even) / np.arange(1, len(even) + 1)).mean())


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error, 0..1; lower is better (Guo et al. 2017, eq. 3).

    The mean of |accuracy - mean confidence| over bins of equal width, weighted by their size.
    The bins are (k/bins, (k+1)/bins]; a confidence of 0 is in the first.

    Args:
        confidence: Probabilities that the answer is right, [n].
        correct: 1 right, 0 wrong, [n].
        bins: How many.

    Raises:
        ValueError: A confidence is not in 0..1, ``bins`` is below 1, or as in
            :func:`risk_coverage`.
    """
    sure, right = _checked(confidence, correct)
    if bins < 1 or sure.min() < 0 or sure.max() > 1:
        raise ValueError("a calibration error needs confidences in 0..1 and at least one bin")
    index = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, None)
    return float(np.abs(np.bincount(index, right - sure)).sum() / len(sure))


def _sorted(confidence: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    sure, loss = _checked(confidence, losses)
    order = np.argsort(-sure, kind="stable")
    return sure[order], loss[order]


def _checked(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"{left.shape} confidences for {right.shape} outcomes")
    if not len(left):
        raise ValueError("there is no question")
    if np.isnan(left).any() or np.isnan(right).any():
        raise ValueError("a confidence or an outcome is NaN: leave that question out")
    return left, right
