"""Ranking metrics: values by hand, ties, one candidate, agreement with scipy and sklearn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import somersd, spearmanr
from sklearn.metrics import ndcg_score

from blender_med.metrics.ranking import (
    RANKING_METRICS,
    ndcg,
    pairwise_accuracy,
    ranking_quality,
    regret,
    spearman,
    top1_hit,
)

SCORES, LABELS = [0.9, 0.5, 0.1], [1.0, 3.0, 0.0]
lists = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8)


def test_values_by_hand():
    # Pairs: (1st, 2nd) wrong, the two others right.
    assert pairwise_accuracy(SCORES, LABELS) == pytest.approx(2 / 3)
    # Ranks 1, 2, 3 and 2, 1, 3: 1 - 6 * (1 + 1 + 0) / (3 * 8).
    assert spearman(SCORES, LABELS) == pytest.approx(0.5)
    best = 3 / math.log2(2) + 1 / math.log2(3)
    assert ndcg(SCORES, LABELS) == pytest.approx((1 / math.log2(2) + 3 / math.log2(3)) / best)
    assert ndcg(SCORES, LABELS, k=1) == pytest.approx(1 / 3)
    assert regret(SCORES, LABELS) == 2.0
    assert top1_hit(SCORES, LABELS) == 0.0


def test_the_labels_themselves_are_the_best_scores():
    found = {name: metric(LABELS, LABELS) for name, metric in RANKING_METRICS.items()}
    assert found == pytest.approx(
        {"pairwise_accuracy": 1, "spearman": 1, "ndcg": 1, "regret": 0, "top1_hit": 1}
    )


def test_equal_scores_count_as_a_random_order():
    scores, labels = [1.0, 1.0, 0.0], [4.0, 0.0, 2.0]
    # Pairs: tied one half, (4, 2) right, (0, 2) wrong.
    assert pairwise_accuracy(scores, labels) == pytest.approx(0.5)
    assert regret(scores, labels) == 2.0
    assert top1_hit(scores, labels) == 0.5
    flat = [0.0, 0.0, 0.0]
    assert pairwise_accuracy(flat, labels) == 0.5
    assert spearman(flat, labels) == 0.0
    # Each candidate stands on each rank once in three: the mean gain of 2 at every rank.
    discounts = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg(flat, labels) == pytest.approx(2 * discounts / (4 + 2 / math.log2(3)))


@pytest.mark.parametrize("labels", [[0.3], [2.0, 2.0]])
def test_nothing_to_order(labels):
    scores = list(range(len(labels)))
    for metric in (pairwise_accuracy, spearman, ndcg):
        assert math.isnan(metric(scores, labels))
    assert regret(scores, labels) == 0.0
    assert top1_hit(scores, labels) == 1.0


def test_gains_of_log_likelihoods_start_at_the_worst():
    assert ndcg([2, 1, 0], [-3.0, -5.0, -2.0]) == pytest.approx(ndcg([2, 1, 0], [2.0, 0.0, 3.0]))


@settings(deadline=None)  # the first call imports scipy
@given(lists)
def test_agrees_with_scipy_and_sklearn(rows):
    scores, labels = map(list, zip(*rows, strict=True))
    if len(set(labels)) > 1:
        assert ndcg(scores, labels) == pytest.approx(ndcg_score([labels], [scores]))
        if len(set(scores)) > 1:  # scipy gives NaN for equal scores
            expected = (1 + somersd(labels, scores).statistic) / 2
            assert pairwise_accuracy(scores, labels) == pytest.approx(expected)
            assert spearman(scores, labels) == pytest.approx(spearmanr(scores, labels).statistic)


@settings(deadline=None)  # the first call imports scipy
@given(lists, st.randoms())
def test_the_order_of_the_candidates_does_not_matter(rows, draws):
    shuffled = draws.sample(rows, len(rows))
    for metric in RANKING_METRICS.values():
        first, second = (metric(*zip(*r, strict=True)) for r in (rows, shuffled))
        assert first == pytest.approx(second, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0], [1.0, 2.0], "shape"),
        ([], [], "no candidate"),
        ([1.0, math.nan], [1.0, 2.0], "NaN"),
        ([1.0, 2.0], [math.nan, 2.0], "NaN"),
        ([[1.0]], [[1.0]], "shape"),
    ],
)
def test_wrong_input_is_refused(scores, labels, message):
    for metric in RANKING_METRICS.values():
        with pytest.raises(ValueError, match=message):
            metric(scores, labels)


def test_questions_of_different_sizes_each_give_a_value():
    found = ranking_quality([SCORES, [0.2]], [LABELS, [5.0]])
    assert found["regret"].tolist() == [2.0, 0.0]
    assert np.isnan(found["ndcg"]).tolist() == [False, True]
    assert found.keys() == RANKING_METRICS.keys()
    assert ranking_quality([], [])["ndcg"].shape == (0,)
