"""Losses of SimCLS and SummaReranker against values derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blender_med.rankers.losses import best_by_metric, margin_ranking


def test_margin_grows_with_the_distance_in_the_order() -> None:
    # Labels order c, a, b. Pairs (c, a): 0.5 - 0.1 + 1/3; (c, b): 0.3 - 0.1 + 2/3;
    # (a, b): 0.3 - 0.5 + 1/3.
    scores, labels = torch.tensor([0.5, 0.3, 0.1]), torch.tensor([2.0, 1.0, 3.0])
    expected = (0.4 + 1 / 3) + (0.2 + 2 / 3) + (-0.2 + 1 / 3)
    assert margin_ranking(scores, labels).item() == pytest.approx(expected)


def test_a_pair_that_keeps_its_margin_costs_nothing() -> None:
    assert margin_ranking(torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0])).item() == 0


def test_equal_labels_ask_nothing_of_each_other() -> None:
    # Two on the first place: only the third is compared, two places behind both.
    scores, labels = torch.tensor([0.2, 0.4, 0.0]), torch.tensor([1.0, 1.0, 0.0])
    assert margin_ranking(scores, labels).item() == pytest.approx((2 / 3 - 0.2) + (2 / 3 - 0.4))
    assert margin_ranking(scores, torch.ones(3)).item() == 0


def test_reference_is_wanted_above_every_candidate() -> None:
    scores, labels = torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0])
    loss = margin_ranking(scores, labels, torch.tensor(0.5))
    assert loss.item() == pytest.approx((0.4 + 0) / 2)
    assert margin_ranking(scores[:1], labels[:1]).item() == 0


def test_loss_does_not_depend_on_the_order_of_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    order = torch.randperm(6, generator=generator)
    first = margin_ranking(scores, labels).item()
    assert margin_ranking(scores[order], labels[order]).item() == pytest.approx(first, abs=1e-5)


def test_best_by_metric_marks_every_highest_value() -> None:
    labels = np.array([[1.0, 0.2], [3.0, 0.2], [3.0, 0.1]])
    assert best_by_metric(labels).tolist() == [[0, 1], [1, 1], [1, 0]]
    assert best_by_metric(np.array([[5.0]])).tolist() == [[1]]
