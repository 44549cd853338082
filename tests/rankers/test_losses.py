"""Losses against values derived by hand; pair sampling against the definition of each mode."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blender_med.errors import DataError
from blender_med.rankers.losses import (
    PAIR_LOSSES,
    SAMPLING_MODES,
    sample_pairs,
    swap_consistency_loss,
)

TEXTS = ("a", "b", "c", "d", "e")
# Best first: c (0.9), a (0.7), e (0.5), b (0.3), d (0.1).
LABELS = np.array([[0.7], [0.3], [0.9], [0.1], [0.5]])


def loss(name: str, left: float, right: float, a: float, b: float) -> float:
    values = (torch.tensor([[v]], dtype=torch.float64) for v in (left, right, a, b))
    return float(PAIR_LOSSES[name](*values))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_instructgpt_is_the_negative_log_sigmoid_of_the_signed_margin():
    assert loss("instructgpt", 1.0, -0.5, 0.8, 0.2) == pytest.approx(softplus(-1.5))
    assert loss("instructgpt", 1.0, -0.5, 0.2, 0.8) == pytest.approx(softplus(1.5))


def test_instructgpt_gives_a_tie_no_gradient_and_the_value_log_2():
    left = torch.tensor([[3.0]], requires_grad=True)
    value = PAIR_LOSSES["instructgpt"](left, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert left.grad.item() == 0


def test_instructgpt_stays_finite_for_extreme_margins():
    assert loss("instructgpt", -500.0, 500.0, 1.0, 0.0) == pytest.approx(1000.0)


def test_bce_asks_each_side_whether_it_is_better():
    better = (softplus(-1.0) + softplus(-0.5)) / 2
    assert loss("BCE", 1.0, -0.5, 0.8, 0.2) == pytest.approx(better)
    tied = (softplus(1.0) + softplus(-0.5)) / 2
    assert loss("BCE", 1.0, -0.5, 0.4, 0.4) == pytest.approx(tied)


def test_mse_rewards_the_product_of_the_differences():
    # (1 - 0.8)^2 + (-0.5 - 0.2)^2 - 2 * 1.5 * 0.6
    assert loss("MSE", 1.0, -0.5, 0.8, 0.2) == pytest.approx(0.04 + 0.49 - 1.8)


def test_open_instruct_bce_takes_each_label_by_itself():
    both_good = (softplus(-1.0) + softplus(0.5)) / 2
    assert loss("open_instruct_BCE", 1.0, -0.5, 1.0, 1.0) == pytest.approx(both_good)
    with pytest.raises(DataError, match=r"labels 0 and 1.*0\.5"):
        loss("open_instruct_BCE", 1.0, -0.5, 1.0, 0.5)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_average_over_pairs_and_tasks(name):
    left, right = torch.tensor([[1.0, -2.0], [0.3, 0.4]]), torch.tensor([[0.5, 1.0], [-1.0, 0.1]])
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    cells = [
        loss(name, *(float(t[i, j]) for t in (left, right, a, b)))
        for i in range(2)
        for j in range(2)
    ]
    assert float(PAIR_LOSSES[name](left, right, a, b)) == pytest.approx(np.mean(cells), abs=1e-6)


def test_swap_consistency_is_zero_for_antisymmetric_logits():
    logits = torch.tensor([1.5, -0.25])
    assert float(swap_consistency_loss(logits, -logits)) == 0
    # (1.5 + 0.5)^2 and (-0.25 + 0.25)^2
    assert float(swap_consistency_loss(logits, torch.tensor([0.5, 0.25]))) == pytest.approx(2.0)


def drawn(mode: str, seed: int = 0, texts=TEXTS, labels=LABELS, **settings) -> list[tuple]:
    options = {"num_pos": 2, "num_neg": 3, "ratio": 0.4} | settings
    return sample_pairs(labels, texts, mode=mode, rng=np.random.default_rng(seed), **options)


def unordered(pairs) -> list[tuple[int, int]]:
    return sorted((min(p), max(p)) for p in pairs)


def test_all_pair_draws_the_smaller_number_of_distinct_combinations():
    seen = set()
    for seed in range(60):
        pairs = unordered(drawn("all_pair", seed))
        assert len(pairs) == len(set(pairs)) == 2
        seen.update(pairs)
    assert len(seen) == 10


def test_top_bottom_matches_the_best_with_the_worst():
    # Best first c a e b d: left c, a; right b, d.
    assert unordered(drawn("top_bottom")) == unordered([(2, 1), (0, 3)])


def test_top_bottom_never_compares_a_candidate_with_itself():
    # More than there are: c a e b against a e b d.
    pairs = unordered(drawn("top_bottom", num_pos=9, num_neg=9))
    assert pairs == unordered([(2, 0), (0, 4), (4, 1), (1, 3)])


def test_uniform_compares_neighbours_at_the_step_of_the_ratio():
    # Step int(1 / 0.4) = 2: left c, e; right e, d.
    assert unordered(drawn("uniform")) == unordered([(2, 4), (4, 3)])


def test_random_draws_the_share_that_ratio_names():
    assert len(drawn("random")) == 2
    assert len(drawn("random", ratio=0.01)) == 1


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_a_coin_decides_who_stands_first(mode):
    best_first = [drawn(mode, seed)[0] for seed in range(200)]
    ahead = np.mean([LABELS[i, 0] > LABELS[j, 0] for i, j in best_first])
    assert 0.35 < ahead < 0.65


@pytest.mark.parametrize("mode", SAMPLING_MODES)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_mode_compares_a_candidate_with_itself(mode, size):
    for seed in range(20):
        pairs = drawn(mode, seed, TEXTS[:size], LABELS[:size], num_pos=6, num_neg=6)
        assert pairs
        assert all(i != j for i, j in pairs)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_identical_candidates_count_once(mode):
    texts = ("a", "b", "a", "b", "a")
    for seed in range(20):
        assert set(unordered(drawn(mode, seed, texts))) <= {(0, 1)}
    assert drawn(mode, texts=("a",) * 5) == []
    assert drawn(mode, texts=("a",), labels=LABELS[:1]) == []


def test_several_tasks_are_sorted_by_their_mean():
    labels = np.array([[1.0, 0.0], [0.2, 0.2], [0.9, 0.9]])
    # Means 0.5, 0.2, 0.9.
    pairs = drawn("top_bottom", texts=TEXTS[:3], labels=labels, num_pos=1)
    assert unordered(pairs) == [(1, 2)]
