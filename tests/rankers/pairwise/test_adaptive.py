"""The adaptive strategy: fewer comparisons, the same first places as all of them give."""

from __future__ import annotations

import numpy as np
import pytest

from blender_med.rankers.adaptive import Adaptive
from blender_med.rankers.aggregate import max_logits


def play(truth: np.ndarray, top_k: int) -> np.ndarray:
    """Logits after the strategy has asked for all it wants; ``truth`` answers."""
    logits = np.full(truth.shape, np.nan)
    np.fill_diagonal(logits, 0.0)
    strategy = Adaptive(top_k)
    for _ in range(truth.size + 1):
        wanted = strategy(logits)
        if not wanted:
            return logits
        for i, j in wanted:
            assert np.isnan(logits[i, j]), "asked twice"
            logits[i, j] = truth[i, j]
    pytest.fail("the strategy never ends")


def matrix(rng: np.random.Generator, size: int, noise: float) -> np.ndarray:
    utility = rng.normal(size=size)
    truth = utility[:, None] - utility[None, :] + 0.3 + rng.normal(0, noise, (size, size))
    np.fill_diagonal(truth, 0.0)
    return truth


def placed(rng: np.random.Generator) -> np.ndarray:
    """A ranker whose advantage of standing first differs between candidates."""
    own = rng.normal(0, 0.3, 8)
    truth = matrix(rng, 8, 0.25) + own[:, None] + own[None, :]
    np.fill_diagonal(truth, 0.0)
    return truth


def first(scores: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())


def test_an_additive_ranker_is_settled_by_the_opening() -> None:
    truth = matrix(np.random.default_rng(0), 8, noise=0.0)
    logits = play(truth, top_k=3)
    np.testing.assert_allclose(max_logits(logits), max_logits(truth), atol=1e-9)
    assert (~np.isnan(logits)).sum() - 8 < 8 * 7 / 2


@pytest.mark.parametrize("draw", [placed, lambda rng: matrix(rng, 8, 0.2)])
def test_noisy_rankers_keep_their_first_places_at_fewer_comparisons(draw) -> None:
    rng = np.random.default_rng(1)
    games = [(truth, play(truth, top_k=3)) for truth in (draw(rng) for _ in range(300))]
    pairs = [(max_logits(truth), max_logits(logits)) for truth, logits in games]
    assert np.mean([first(a, 1) == first(b, 1) for a, b in pairs]) >= 0.98
    assert np.mean([first(a, 3) == first(b, 3) for a, b in pairs]) >= 0.95
    made = np.mean([(~np.isnan(logits)).sum() - 8 for _, logits in games])
    assert made < 0.6 * 8 * 7


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_small_groups_and_large_k_come_to_an_end(size: int, top_k: int) -> None:
    truth = matrix(np.random.default_rng(size), size, noise=0.1)
    scores = max_logits(play(truth, top_k))
    assert first(scores, 1) == first(max_logits(truth), 1)
