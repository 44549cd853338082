"""The gate and the mixture of experts of SummaReranker."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from blender_med.rankers.mixture import MultiTaskMixture, NoisyTopKGate, squared_variation


def _gate(rows: list[list[float]], k: int) -> NoisyTopKGate:
    gate = NoisyTopKGate(len(rows[0]), len(rows), k)
    gate.weight.weight.data = torch.tensor(rows)
    gate.noise.weight.data.zero_()
    return gate


def test_weights_are_the_softmax_of_the_k_best_logits() -> None:
    gate = _gate([[1.0], [3.0], [2.0]], k=2).eval()
    weights, loss = gate(torch.tensor([[1.0], [-1.0]]))
    high = 1 / (1 + math.exp(-1))
    assert weights.tolist()[0] == pytest.approx([0, high, 1 - high])
    assert weights.tolist()[1] == pytest.approx([high, 0, 1 - high])
    assert loss == 0


def test_squared_variation_by_hand() -> None:
    assert squared_variation(torch.tensor([2.0, 2.0, 2.0])) == 0
    assert squared_variation(torch.tensor([1.0, 3.0])) == pytest.approx(2 / 4)


def test_load_is_the_chance_of_being_chosen_again() -> None:
    # Equation 9 of Shazeer et al., element by element.
    clean = torch.tensor([[0.5, -0.2, 0.1], [1.0, 1.5, -1.0]])
    noisy = torch.tensor([[0.4, 0.3, -0.6], [0.2, 1.9, -0.5]])
    deviation = torch.tensor([[0.7, 0.5, 0.3], [1.1, 0.2, 0.6]])
    expected = torch.zeros(3)
    for row in range(2):
        for i in range(3):
            others = torch.cat([noisy[row, :i], noisy[row, i + 1 :]])
            distance = (clean[row, i] - others.max()) / deviation[row, i]
            expected[i] += Normal(0.0, 1.0).cdf(distance)
    load = NoisyTopKGate(4, 3, 1)._load(clean, noisy, deviation)
    assert load.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_training_adds_noise_and_a_loss_that_reaches_the_gate() -> None:
    torch.manual_seed(0)
    gate = NoisyTopKGate(4, 4, 2).train()
    states = torch.randn(8, 4)
    weights, loss = gate(states)
    again, _ = gate(states)
    assert not torch.equal(weights, again)
    assert ((weights > 0).sum(dim=1) == 2).all()
    loss.backward()
    assert gate.weight.weight.grad.abs().sum() > 0 and gate.noise.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_mixture_gives_a_logit_for_each_task_whatever_shares_the_batch(n_tasks: int) -> None:
    torch.manual_seed(1)
    mixture = MultiTaskMixture(8, n_tasks).eval()
    states = torch.randn(5, 8)
    logits, loss = mixture(states)
    assert logits.shape == (5, n_tasks) and loss == 0
    alone = torch.cat([mixture(row[None])[0] for row in states])
    assert torch.allclose(alone, logits, atol=1e-6)
