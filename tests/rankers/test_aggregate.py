"""Scores and ranks from pairwise logits: by hand, in any order, at extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blender_med.errors import ConfigError
from blender_med.rankers.aggregate import (
    AGGREGATIONS,
    aggregation,
    bradley_terry,
    completed,
    max_logits,
    max_wins,
    ranks,
)

NAN = float("nan")
# The diagonal is not looked at.
LOGITS = np.array([[9.0, 2.0, -1.0], [-1.0, 9.0, 3.0], [0.5, -2.0, 9.0]])


def test_ties_share_the_lower_rank() -> None:
    assert ranks([0.5, 2.0, 0.5, -1.0]) == (2, 1, 2, 4)
    assert ranks([]) == ()


def test_max_logits_is_the_mean_over_all_columns_of_both_orders() -> None:
    # (2 + 1 - 1 - 0.5) / 3, (-1 - 2 + 3 + 2) / 3, (0.5 + 1 - 2 - 3) / 3
    assert max_logits(LOGITS) == pytest.approx([0.5, 2 / 3, -3.5 / 3])


def test_max_wins_counts_both_orders() -> None:
    # 0 beats 1 twice and loses to 2 twice; 1 beats 2 twice.
    assert max_wins(LOGITS).tolist() == [2.0, 2.0, 2.0]
    assert max_wins(np.zeros((3, 3))).tolist() == [0.0, 0.0, 0.0]


def test_bradley_terry_of_two_is_their_mean_log_odds() -> None:
    # Without the ridge: the log-odds of the mean of sigmoid(1.5) and 1 - sigmoid(-0.5).
    logits = np.array([[0.0, 1.5], [-0.5, 0.0]])
    share = (1 / (1 + math.exp(-1.5)) + 1 / (1 + math.exp(-0.5))) / 2
    first, second = bradley_terry(logits)
    assert first == pytest.approx(-second)
    assert first - second == pytest.approx(math.log(share / (1 - share)), abs=5e-3)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("size", [2, 5, 12])
def test_bradley_terry_is_finite_and_ordered_however_sure_the_ranker_is(scale, size) -> None:
    utility = np.arange(size)[::-1] * scale
    logits = (utility[:, None] - utility[None, :]).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        abilities = bradley_terry(logits)
    assert ranks(abilities) == tuple(range(1, size + 1))
    assert abilities.sum() == pytest.approx(0, abs=1e-6)


def test_bradley_terry_leaves_out_what_was_not_compared() -> None:
    logits = np.array([[0.0, 1.0, NAN], [NAN, 0.0, 1.0], [NAN, NAN, 0.0]])
    first, second, third = bradley_terry(logits)
    # Each comparison is fitted by itself: abilities one apart.
    assert (first - second, second - third) == pytest.approx((1.0, 1.0), abs=2e-2)


def test_missing_logits_are_predicted_from_the_others() -> None:
    utility = np.array([1.0, 0.0, -2.0])
    whole = utility[:, None] - utility[None, :] + 0.3
    np.fill_diagonal(whole, 0.0)
    some = whole.copy()
    some[0, 2] = NAN
    assert completed(some) == pytest.approx(whole)
    assert max_logits(some) == pytest.approx(max_logits(whole))


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_order_of_the_candidates_does_not_matter(name) -> None:
    order = np.array([2, 0, 1])
    aggregate = aggregation(name)
    expected = aggregate(LOGITS)[order]
    assert aggregate(LOGITS[np.ix_(order, order)]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_one_candidate_scores_zero_and_nothing_compared_is_a_tie(name) -> None:
    assert aggregation(name)(np.zeros((1, 1))).tolist() == [0.0]
    nothing = np.where(np.eye(3, dtype=bool), 0.0, NAN)
    assert aggregation(name)(nothing) == pytest.approx([0.0, 0.0, 0.0])


def test_an_unknown_aggregation_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_logits'"):
        aggregation("max_logit")
