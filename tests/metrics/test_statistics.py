"""Bootstrap, McNemar, Holm: hand-derived values, properties, agreement with scipy, statsmodels."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import ttest_rel
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from blender_med.metrics import statistics
from blender_med.metrics.statistics import (
    bootstrap_interval,
    bootstrap_means,
    bootstrap_p,
    bootstrap_sums,
    holm,
    mcnemar,
    paired_bootstrap_p,
    percentile_interval,
)

RNG = np.random.default_rng(7)


def test_interval_agrees_with_scipy():
    values = RNG.normal(3, 2, 200)
    low, high = bootstrap_interval(values, seed=1, resamples=20_000)
    theirs = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2)
    # The end of an interval from 20,000 resamples has a standard error of about 0.02 deviations
    # of the mean, here 0.003; five of them are allowed.
    expected = theirs.confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_interval_covers_the_mean_about_95_times_in_100():
    hits = 0
    for trial in range(400):
        values = np.random.default_rng(trial).normal(0, 1, 60)
        low, high = bootstrap_interval(values, seed=trial, resamples=400)
        hits += low <= 0 <= high
    # Binomial(400, 0.94): 376 +- 4.7; the percentile interval covers a little less than 95 %.
    assert 360 <= hits <= 393


def test_constant_values_give_a_point():
    assert bootstrap_interval(np.full(5, 0.25), seed=0) == (0.25, 0.25)
    assert bootstrap_interval(np.array([0.7]), seed=0) == (0.7, 0.7)


def test_same_seed_same_resamples_however_they_are_chunked(monkeypatch):
    columns = RNG.normal(size=(50, 3))
    whole = bootstrap_sums(columns, resamples=100, seed=3)
    # Products of matrices of other shapes are summed in another order: rounding only.
    assert bootstrap_sums(columns[:, :1], resamples=100, seed=3) == pytest.approx(whole[:, :1])
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 7 * 50)
    assert bootstrap_sums(columns, resamples=100, seed=3) == pytest.approx(whole)


def test_missing_values_are_left_out():
    values = np.array([[1.0, np.nan], [1.0, 4.0], [1.0, np.nan]])
    means = bootstrap_means(values, resamples=200, seed=0)
    assert (means[:, 0] == 1).all()
    assert set(np.unique(means[~np.isnan(means[:, 1]), 1])) == {4.0}
    assert np.isnan(means[:, 1]).any()
    assert percentile_interval(means[:, 1]) == (4.0, 4.0)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


def test_groups_are_resampled_whole():
    values = np.array([0.0, 0.0, 1.0, 1.0])
    grouped = bootstrap_means(values[:, None], resamples=500, seed=0, groups=["a", "a", "b", "b"])
    assert set(np.unique(grouped)) == {0.0, 0.5, 1.0}
    alone = bootstrap_interval(values, seed=0, groups=[1, 2, 3, 4])
    assert alone == bootstrap_interval(values, seed=0)


def test_group_copies_do_not_narrow_the_interval():
    values = RNG.normal(size=40)
    copies = np.repeat(values, 10)
    low, high = bootstrap_interval(copies, seed=5, groups=np.repeat(np.arange(40), 10).tolist())
    assert (low, high) == pytest.approx(bootstrap_interval(values, seed=5))
    naive = bootstrap_interval(copies, seed=5)
    assert naive[1] - naive[0] < 0.5 * (high - low)


@pytest.mark.parametrize("columns", [np.empty((0, 2)), np.empty((0, 0))])
def test_no_row_is_refused(columns):
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_sums(columns, resamples=10, seed=0)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="1 groups for 2 rows"):
        bootstrap_sums(np.ones((2, 1)), resamples=10, seed=0, groups=["a"])


def test_paired_p_agrees_with_the_t_test():
    first = RNG.normal(0, 1, 150)
    for shift in (0.0, 0.05, 0.15):
        second = first + RNG.normal(shift, 0.8, 150)
        p = paired_bootstrap_p(first, second, seed=4, resamples=20_000)
        # The mean of 150 near-normal differences: both tests ask the same; 0.015 is four times
        # the standard error sqrt(0.25 / 20000) of a simulated p.
        assert p == pytest.approx(ttest_rel(first, second).pvalue, abs=0.015)


def test_paired_p_edges():
    values = np.array([0.1, 0.5, 0.9])
    assert paired_bootstrap_p(values, values, seed=0) == 1.0
    assert paired_bootstrap_p(np.array([np.nan]), np.array([1.0]), seed=0) == 1.0
    # One question alone proves nothing; n agreeing signs have probability 2^(1 - n).
    assert paired_bootstrap_p(np.array([1.0]), np.array([0.0]), seed=0) == 1.0
    assert paired_bootstrap_p(np.ones(3), np.zeros(3), seed=0) == 0.25
    assert paired_bootstrap_p(np.ones(4), np.zeros(4), seed=0, groups=[1, 1, 2, 2]) == 0.5
    assert paired_bootstrap_p(np.ones(50), np.zeros(50), seed=0, resamples=999) == 0.001


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_paired_p_is_symmetric_and_a_probability(values):
    first, second = np.array(values), np.zeros(len(values))
    p = paired_bootstrap_p(first, second, seed=1, resamples=200)
    assert 0 < p <= 1
    assert p == pytest.approx(paired_bootstrap_p(second, first, seed=1, resamples=200))


def test_bootstrap_p_counts_by_hand():
    # |d* - 1| >= 1 for 0.0 and 2.0, of four: (1 + 2) / (1 + 4).
    assert bootstrap_p(np.array([0.0, 0.5, 1.5, 2.0]), 1.0, 30) == pytest.approx(0.6)


def test_mcnemar_by_hand():
    # 1 against 5 discordant: 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64.
    first = np.array([1, 0, 0, 0, 0, 0, 1, 0, np.nan])
    second = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1])
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(first[6:], second[6:]) == 1.0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
@settings(deadline=None)
def test_mcnemar_agrees_with_statsmodels(pairs):
    first, second = np.array(pairs, dtype=float).T
    table = [[((first == a) & (second == b)).sum() for b in (1, 0)] for a in (1, 0)]
    assert mcnemar(first, second) == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_holm_agrees_with_statsmodels(p_values):
    with mock.patch("gc.collect"):  # statsmodels collects at every call: seconds in a large suite
        theirs = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(theirs)


def test_twenty_thousand_questions_stay_small_and_fast():
    import resource
    import time

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    bootstrap_means(RNG.normal(size=(20_000, 20)), resamples=2000, seed=0)
    assert time.perf_counter() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
