"""Bootstrap intervals and paired tests.

The unit that is resampled is the question, or the group (document, focus) that several questions
come from. Two calls with the same number of units, resamples and seed draw the same resamples,
so that differences of their results are paired.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 4_000_000
_ROUNDING = 1e-12


def bootstrap_sums(
    columns: Floats, *, resamples: int, seed: int, groups: Sequence[Hashable] | None = None
) -> Floats:
    """Sums of columns over bootstrap resamples of the rows.

    Args:
        columns: One row per question, [n, k], n >= 1.
        resamples: How many resamples.
        seed: Start of the generator.
        groups: Group of each row, [n]; whole groups are resampled. None: each row is its own.

    Returns:
        [resamples, k]. Memory beyond input and result is bounded, whatever n and resamples are.

    Raises:
        ValueError: There is no row, or ``groups`` has another length.
    """
    units = columns if groups is None else _group_sums(columns, groups)
    n = len(units)
    if n == 0:
        raise ValueError("a bootstrap needs at least one row")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    sums = np.empty((resamples, units.shape[1]))
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        draws = generator.integers(0, n, (count, n), dtype=np.int32)
        draws += np.arange(count, dtype=np.int32)[:, None] * n
        weights = np.bincount(draws.ravel(), minlength=count * n).reshape(count, n)
        sums[start : start + count] = weights.astype(np.float64) @ units
    return sums


def _group_sums(columns: Floats, groups: Sequence[Hashable]) -> Floats:
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    if len(index) != len(columns):
        raise ValueError(f"{len(index)} groups for {len(columns)} rows")
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def bootstrap_means(
    values: Floats, *, resamples: int, seed: int, groups: Sequence[Hashable] | None = None
) -> Floats:
    """Means of columns over bootstrap resamples; a missing value (NaN) is left out.

    Args:
        values: [n, k], n >= 1.
        resamples: How many resamples.
        seed: Start of the generator.
        groups: Group of each row, [n]; whole groups are resampled. None: each row is its own.

    Returns:
        [resamples, k]; NaN where a resample of a column holds missing values only.
    """
    present = ~np.isnan(values)
    columns = np.hstack([np.where(present, values, 0.0), present.astype(np.float64)])
    sums = bootstrap_sums(columns, resamples=resamples, seed=seed, groups=groups)
    totals, counts = np.hsplit(sums, 2)
    missing = np.full(totals.shape, np.nan)
    return np.divide(totals, counts, out=missing, where=counts > 0)


def percentile_interval(statistics: Floats, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of coverage 1 - alpha from bootstrap statistics [resamples] (Efron 1979).

    NaN entries are left out; without any other entry the interval is (NaN, NaN).
    """
    known = statistics[~np.isnan(statistics)]
    if known.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: Floats,
    *,
    seed: int,
    resamples: int = 2000,
    alpha: float = 0.05,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` [n]; see :func:`bootstrap_means`."""
    means = bootstrap_means(values[:, None], resamples=resamples, seed=seed, groups=groups)
    return percentile_interval(means[:, 0], alpha)


def bootstrap_p(statistics: Floats, observed: float, n: int) -> float:
    """Two-sided p of "the difference is 0" from bootstrap differences [resamples].

    p = (1 + #{|d* - d| >= |d|}) / (1 + resamples), the bootstrap centred on the null hypothesis
    (Efron and Tibshirani 1993, chapter 16). It is never below 2^(1 - n), the least p that any
    test of the signs of n differences can give: else one question would already be significant.

    Args:
        statistics: Differences d* of the resamples; NaN entries are left out.
        observed: The difference d of the sample.
        n: Independent units (questions or groups) that were resampled.
    """
    known = statistics[~np.isnan(statistics)]
    slack = _ROUNDING * max(1.0, abs(observed))
    extreme = int((np.abs(known - observed) >= abs(observed) - slack).sum())
    return min(1.0, max((1 + extreme) / (1 + known.size), 2.0 ** (1 - min(n, 1000))))


def paired_bootstrap_p(
    first: Floats,
    second: Floats,
    *,
    seed: int,
    resamples: int = 2000,
    groups: Sequence[Hashable] | None = None,
) -> float:
    """Two-sided p of equal means of paired values [n]; see :func:`bootstrap_p`.

    Pairs with a missing value (NaN) are left out; 1.0 if none is left.
    """
    difference = first - second
    known = ~np.isnan(difference)
    if not known.any():
        return 1.0
    kept = None if groups is None else [g for g, k in zip(groups, known, strict=True) if k]
    difference = difference[known]
    means = bootstrap_means(difference[:, None], resamples=resamples, seed=seed, groups=kept)
    units = len(difference) if kept is None else len(set(kept))
    return bootstrap_p(means[:, 0], float(difference.mean()), units)


def mcnemar(first: Floats, second: Floats) -> float:
    """Exact two-sided p of McNemar's test (McNemar 1947; binomial form).

    Args:
        first: 1.0 right, 0.0 wrong, NaN missing (the pair is left out), [n].
        second: The same of the other method, [n].

    Returns:
        p; 1.0 where no pair is discordant.
    """
    from scipy.stats import binom

    only_first = int(((first == 1) & (second == 0)).sum())
    only_second = int(((first == 0) & (second == 1)).sum())
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), discordant, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values, in their order (Holm 1979); [] for [].

    As statsmodels' ``multipletests``, which collects garbage at every call: seconds in a report.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [float(value) for value in np.minimum(adjusted, 1.0)]
