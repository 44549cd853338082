"""Gates: values by hand, properties, parity with Mixtral, the load against simulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from blender_med.errors import ConfigError
from blender_med.fusers.gate import (
    Gate,
    balance_loss,
    build_gate,
    coefficient_of_variation_squared,
    importance_loss,
    noise_deviation,
    smooth_load,
    sparse_softmax,
    top_k_mask,
)
from blender_med.fusers.gate_config import DenseGateConfig, NoisyTopKConfig, TopKSoftmaxConfig

N, SIZE = 5, 7
X = torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0))
SPARSE = [NoisyTopKConfig, TopKSoftmaxConfig]


def gate(config: Any, n: int = N) -> Gate:
    """A gate whose weights are not those it begins with."""
    torch.manual_seed(1)
    made = build_gate(config, SIZE, n)
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("k", [1, 2, N])
@pytest.mark.parametrize("kind", SPARSE)
def test_exactly_k_weights_that_sum_to_one(kind: Any, k: int, training: bool) -> None:
    weights, chosen, loss = gate(kind(k=k)).train(training)(X)
    assert ((weights > 0).sum(dim=1) == k).all()
    assert torch.equal(weights > 0, chosen)
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(X)))
    assert loss.ndim == 0 and math.isfinite(loss.item())


def test_the_dense_gate_is_the_softmax_of_a_linear_layer_and_begins_even() -> None:
    assert torch.equal(build_gate(DenseGateConfig(), SIZE, 4)(X).weights, torch.full((40, 4), 0.25))
    dense = gate(DenseGateConfig())
    weights, chosen, loss = dense(X)
    expected = torch.softmax(X @ dense.w_g.weight.T + dense.w_g.bias, dim=1)
    assert torch.allclose(weights, expected)
    assert chosen.all() and loss == 0


@pytest.mark.parametrize("kind", SPARSE)
def test_with_k_equal_to_n_a_sparse_gate_is_dense(kind: Any) -> None:
    own = gate(kind(k=N)).eval()
    assert torch.allclose(own(X).weights, torch.softmax(X @ own.w_g.weight.T, dim=1))


def test_ties_go_to_the_expert_that_comes_first() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0]])
    chosen = top_k_mask(logits, 2)
    assert chosen.tolist() == [[True, True, False, False], [False, True, True, False]]
    e = math.e
    expected = [[0.5, 0.5, 0, 0], [0, e / (e + 1), 1 / (e + 1), 0]]
    assert torch.allclose(sparse_softmax(logits, chosen), torch.tensor(expected))


def test_noise_is_drawn_in_training_only() -> None:
    noisy = gate(NoisyTopKConfig(k=2))
    torch.manual_seed(0)
    first, second = noisy(X).weights, noisy(X).weights
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(noisy(X).weights, first)
    noisy.eval()
    assert torch.equal(noisy(X).weights, noisy(X).weights)
    clean = X @ noisy.w_g.weight.T
    assert torch.allclose(noisy(X).weights, sparse_softmax(clean, top_k_mask(clean, 2)))


def test_the_noise_is_scaled_by_softplus_of_its_own_layer(monkeypatch: Any) -> None:
    noisy = gate(NoisyTopKConfig(k=N))  # k = n: no logit is left out
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    deviation = torch.nn.functional.softplus(X @ noisy.w_noise.weight.T)
    expected = torch.softmax(X @ noisy.w_g.weight.T + deviation, dim=1)
    assert torch.allclose(noisy(X).weights, expected, atol=1e-6)
    assert noise_deviation(torch.tensor(-1000.0)) > 0


@pytest.mark.parametrize("begin_even", [True, False])
def test_gradients_reach_both_matrices(begin_even: bool) -> None:
    config = NoisyTopKConfig(k=2)
    noisy = build_gate(config, SIZE, N) if begin_even else gate(config)
    torch.manual_seed(2)
    weights, _, loss = noisy(X)
    (weights[:, 0].sum() + loss).backward()
    for matrix in (noisy.w_g.weight, noisy.w_noise.weight):
        assert matrix.grad.abs().sum() > 0
        assert matrix.grad.isfinite().all()


def test_with_k_1_the_load_loss_alone_teaches() -> None:
    noisy = gate(NoisyTopKConfig(k=1, importance_weight=0.0))
    weights, _, loss = noisy(X)
    assert torch.equal(weights.max(dim=1).values, torch.ones(len(X)))
    loss.backward()
    assert noisy.w_g.weight.grad.abs().sum() > 0
    assert noisy.w_noise.weight.grad.abs().sum() > 0


def test_coefficient_of_variation_by_hand() -> None:
    # mean 2, variance (1 + 0 + 1) / 3
    values = torch.tensor([1.0, 2.0, 3.0])
    assert coefficient_of_variation_squared(values) == pytest.approx(2 / 3 / 4)
    assert coefficient_of_variation_squared(10 * values) == pytest.approx(2 / 3 / 4)
    assert coefficient_of_variation_squared(torch.tensor([5.0])) == 0
    assert coefficient_of_variation_squared(torch.zeros(3)) == 0


def test_importance_sums_the_weights_over_the_batch() -> None:
    even = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert importance_loss(even) == 0
    # importance (2, 0): mean 1, variance 1
    assert importance_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 1


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_load_is_the_probability_when_only_the_own_noise_is_drawn_anew(k: int) -> None:
    draws = 40_000
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(1, 4, generator=generator)
    deviation = torch.rand(1, 4, generator=generator) + 0.2
    noisy = clean + deviation * torch.randn(1, 4, generator=generator)
    load = smooth_load(clean, noisy, deviation, k)
    for expert in range(4):
        trial = noisy.repeat(draws, 1)
        own = torch.randn(draws, generator=generator)
        trial[:, expert] = clean[0, expert] + deviation[0, expert] * own
        share = top_k_mask(trial, k)[:, expert].float().mean()
        # Four standard errors of a share: at most 4 * 0.5 / sqrt(40,000).
        assert load[expert] == pytest.approx(share.item(), abs=0.01)


def test_the_load_of_a_batch_is_near_the_number_of_rows_that_choose_an_expert() -> None:
    noisy = gate(NoisyTopKConfig(k=2))
    x = torch.randn(8000, SIZE, generator=torch.Generator().manual_seed(4))
    clean = x @ noisy.w_g.weight.T
    deviation = noise_deviation(x @ noisy.w_noise.weight.T)
    torch.manual_seed(5)
    logits = clean + deviation * torch.randn_like(clean)
    count = top_k_mask(logits, 2).sum(dim=0)
    # Four standard errors: a count and its expectation differ by at most 4 * sqrt(8000) / 2.
    assert torch.allclose(smooth_load(clean, logits, deviation, 2), count.float(), atol=180)


def test_the_load_is_the_whole_batch_where_every_expert_is_taken() -> None:
    assert smooth_load(X, X, torch.ones_like(X), SIZE).tolist() == [len(X)] * SIZE


def test_balance_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
    # Both rows choose the first: shares (1, 0), mean probabilities (3/4, 1/4).
    assert balance_loss(logits, top_k_mask(logits, 1)) == pytest.approx(2 * 0.75)
    assert balance_loss(torch.zeros(4, 6), top_k_mask(torch.zeros(4, 6), 2)) == pytest.approx(2)


@pytest.mark.parametrize("k", [1, 2, N])
def test_topk_softmax_is_the_router_of_mixtral(k: int) -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import (
        MixtralTopKRouter,
        load_balancing_loss_func,
    )

    own = gate(TopKSoftmaxConfig(k=k, balance_weight=1.0))
    config = MixtralConfig(hidden_size=SIZE, num_local_experts=N, num_experts_per_tok=k)
    router = MixtralTopKRouter(config)
    router.weight.data = own.w_g.weight.data
    logits, scores, places = router(X)
    expected = torch.zeros(len(X), N).scatter(1, places, scores)
    weights, _, loss = own(X)
    # float32: the router divides the top-k of a whole softmax, the gate takes theirs alone.
    assert torch.allclose(weights, expected, atol=1e-6)
    reference = load_balancing_loss_func((logits,), N, k)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)


@pytest.mark.parametrize("kind", SPARSE)
def test_k_above_the_number_of_experts_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"gate\.k.*only 3 experts.*received 4.*at most 3"):
        build_gate(kind(k=4), SIZE, 3)


@pytest.mark.parametrize("kind", SPARSE)
def test_a_single_expert_has_all_the_weight(kind: Any) -> None:
    weights, _, loss = gate(kind(k=1), n=1)(X)
    assert torch.equal(weights, torch.ones(len(X), 1))
    assert loss.item() == pytest.approx(0.02 if kind is TopKSoftmaxConfig else 0.0)
