"""Predicted logits: the conditional expectation of a Gaussian model, exact where it must be."""

from __future__ import annotations

import numpy as np
import pytest

from blender_med.rankers.utilities import PLACED, departures, design, predicted

RING = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (3, 1)]


def known(size: int, pairs: list[tuple[int, int]], truth: np.ndarray) -> np.ndarray:
    logits = np.full((size, size), np.nan)
    for i, j in pairs:
        logits[i, j] = truth[i, j]
    return logits


def test_prediction_is_the_gaussian_conditional_under_a_flat_prior() -> None:
    truth = np.random.default_rng(0).normal(size=(4, 4))
    logits = known(4, RING, truth)
    found = predicted(logits)
    # The same by conditioning on the joint covariance, utilities and advantage drawn very wide.
    joint = 1e6 * design(4) @ design(4).T + departures(4)
    asked = [4 * i + j for i, j in RING]
    gain = joint[:, asked] @ np.linalg.inv(joint[np.ix_(asked, asked)])
    expected = gain @ truth.ravel()[asked]
    np.testing.assert_allclose(found.logits.ravel(), expected, atol=1e-4)
    np.testing.assert_allclose(found.covariance, joint - gain @ joint[asked], atol=1e-3)
    assert found.freedom == len(RING) - 4  # three differences of utilities and the advantage


def test_departures_are_the_candidates_own_advantages_and_noise() -> None:
    """Hand-derived: c_i + c_j stands in every pair of i or j, in either order."""
    found = departures(3).reshape(3, 3, 3, 3)
    assert found[0, 1, 0, 1] == 1 + 2 * PLACED
    assert found[0, 1, 1, 0] == 2 * PLACED
    assert found[0, 1, 2, 0] == PLACED
    assert np.all(found[1, 1] == 0)


def test_comparisons_made_stand_as_they_are() -> None:
    truth = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
    found = predicted(known(4, RING, truth)).logits
    assert [found[pair] for pair in RING] == [truth[pair] for pair in RING]
    np.testing.assert_array_equal(found.diagonal(), 0)


def test_an_additive_ranker_is_predicted_exactly() -> None:
    utility = np.array([0.3, -1.0, 2.0, 0.5])
    truth = utility[:, None] - utility[None] + 0.7
    np.fill_diagonal(truth, 0.0)
    found = predicted(known(4, RING, truth))
    np.testing.assert_allclose(found.logits, truth, atol=1e-9)
    assert found.squares == pytest.approx(0, abs=1e-12)


def test_without_a_comparison_all_are_equal() -> None:
    found = predicted(np.full((3, 3), np.nan))
    np.testing.assert_array_equal(found.logits, 0)
    assert (found.squares, found.freedom) == (0.0, 0)
