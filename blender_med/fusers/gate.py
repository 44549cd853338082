"""Gates: from one vector per question to a weight per expert, most of them zero.

Pure functions on logits, and one module each: ``dense``, ``noisy_topk`` (Shazeer et al. 2017,
"Outrageously large neural networks") and ``topk_softmax`` (Jiang et al. 2024, Mixtral). Experts
stand in one fixed order; of equal logits the expert that comes first is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import softplus

from blender_med.errors import ConfigError
from blender_med.fusers.gate_config import (
    GateConfig,
    NoisyTopKConfig,
    TopKSoftmaxConfig,
)

_LEAST_NOISE = 1e-6  # softplus falls to 0 below -104, and the load divides by it
_ROUTER_DEVIATION = 0.02  # Mixtral's initializer_range


class Gating(NamedTuple):
    """What a gate decides for a batch.

    Attributes:
        weights: At least 0, each row sums to 1, [batch, n].
        chosen: Which experts take part; the others have weight 0, [batch, n], bool.
        loss: What the training loss grows by so that the experts share the work, scalar.
    """

    weights: torch.Tensor
    chosen: torch.Tensor
    loss: torch.Tensor


def top_k_mask(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Which ``k`` logits of each row are the highest; of equals the first, [..., n], bool."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    return chosen.scatter(-1, order[..., :k], True)


def sparse_softmax(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Softmax over the chosen logits, 0 elsewhere (Shazeer et al. 2017, equations 3 and 5).

    Args:
        logits: [..., n].
        chosen: At least one in each row, [..., n], bool.
    """
    return logits.masked_fill(~chosen, -torch.inf).softmax(dim=-1)


def noise_deviation(noise_logits: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the noise of each logit (Shazeer et al. 2017, equation 4)."""
    return softplus(noise_logits).clamp_min(_LEAST_NOISE)


def coefficient_of_variation_squared(values: torch.Tensor) -> torch.Tensor:
    """Variance over the squared mean of ``values``, [n]; 0 for one value and for all zero."""
    mean = values.mean()
    return (values - mean).square().mean() / mean.square().clamp_min(torch.finfo(mean.dtype).tiny)


def importance_loss(weights: torch.Tensor) -> torch.Tensor:
    """CV(importance)^2 with the weights [batch, n] of an expert summed over the batch.

    Shazeer et al. 2017, equations 6 and 7, without the factor w; 0 where all matter the same.
    """
    return coefficient_of_variation_squared(weights.sum(dim=0))


def smooth_load(
    clean: torch.Tensor, noisy: torch.Tensor, deviation: torch.Tensor, k: int
) -> torch.Tensor:
    """Expected number of rows that each expert gets, differentiable in the logits, [n].

    The sum over the batch of P(x, i): the probability that expert i is among the top k of row x
    when its own noise is drawn anew and that of the others is kept (Shazeer et al. 2017,
    equations 8 to 10). It is the size of the batch where ``k`` takes every expert.

    Args:
        clean: Logits without noise, [batch, n].
        noisy: Logits with the noise that was drawn, [batch, n].
        deviation: Standard deviation of the noise, above 0, [batch, n].
        k: Experts for each row.
    """
    if k >= clean.shape[1]:
        return torch.ones_like(clean).sum(dim=0)
    ordered = noisy.sort(dim=-1, descending=True, stable=True).values
    # The k-th highest of the others: with the expert among the top k it stands one place later.
    others = torch.where(top_k_mask(noisy, k), ordered[:, k, None], ordered[:, k - 1, None])
    return torch.special.ndtr((clean - others) / deviation).sum(dim=0)


def load_loss(
    clean: torch.Tensor, noisy: torch.Tensor, deviation: torch.Tensor, k: int
) -> torch.Tensor:
    """CV(load)^2 (Shazeer et al. 2017, equation 11, without the factor w); see `smooth_load`."""
    return coefficient_of_variation_squared(smooth_load(clean, noisy, deviation, k))


def balance_loss(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mixtral's load-balancing loss: n times the sum of (share of rows) x (mean probability).

    Fedus et al. 2022 (Switch Transformer), equations 4 to 6, with the shares of all k choices
    added up as in transformers: it is k where the work is shared evenly, n where k = n.

    Args:
        logits: [batch, n], at least one row.
        chosen: [batch, n], bool.
    """
    shares = chosen.to(logits.dtype).mean(dim=0)
    return logits.shape[-1] * (shares * logits.softmax(dim=-1).mean(dim=0)).sum()


class Gate(nn.Module, ABC):
    """A gate over ``n`` experts that reads vectors of ``input_size`` numbers."""

    def __init__(self, input_size: int, n: int, *, bias: bool = False) -> None:
        super().__init__()
        self.w_g = nn.Linear(input_size, n, bias=bias)

    @abstractmethod
    def reset_parameters(self) -> None:
        """Weights of a gate that has learned nothing."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> Gating:
        """Gating of vectors [batch, input_size]; computed in float32."""


class DenseGate(Gate):
    """Softmax of a linear layer; it begins with equal weights. Its loss is 0."""

    def __init__(self, input_size: int, n: int) -> None:
        super().__init__(input_size, n, bias=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All zero."""
        nn.init.zeros_(self.w_g.weight)
        nn.init.zeros_(self.w_g.bias)

    def forward(self, x: torch.Tensor) -> Gating:
        """Gating of vectors [batch, input_size]."""
        weights = self.w_g(x).float().softmax(dim=-1)
        return Gating(weights, torch.ones_like(weights, dtype=torch.bool), weights.new_zeros(()))


class NoisyTopKGate(Gate):
    """Noisy top-k gating; noise is drawn in training mode only, from torch's generator."""

    def __init__(self, input_size: int, n: int, config: NoisyTopKConfig) -> None:
        super().__init__(input_size, n)
        self.w_noise = nn.Linear(input_size, n, bias=False)
        self._config = config
        check_k(config.k, n)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All zero, as the paper has it: no signal and some noise, so the load begins even."""
        nn.init.zeros_(self.w_g.weight)
        nn.init.zeros_(self.w_noise.weight)

    def forward(self, x: torch.Tensor) -> Gating:
        """Gating of vectors [batch, input_size] (equations 3 to 5)."""
        clean, k = self.w_g(x).float(), self._config.k
        deviation = noise_deviation(self.w_noise(x).float())
        noise = torch.randn_like(clean) if self.training else torch.zeros_like(clean)
        noisy = clean + noise * deviation
        chosen = top_k_mask(noisy, k)
        weights = sparse_softmax(noisy, chosen)
        loss = self._config.importance_weight * importance_loss(weights)
        loss = loss + self._config.load_weight * load_loss(clean, noisy, deviation, k)
        return Gating(weights, chosen, loss)


class TopKSoftmaxGate(Gate):
    """Mixtral's router: softmax over the top-k logits of a linear layer."""

    def __init__(self, input_size: int, n: int, config: TopKSoftmaxConfig) -> None:
        super().__init__(input_size, n)
        self._config = config
        check_k(config.k, n)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small random weights, as Mixtral's."""
        nn.init.normal_(self.w_g.weight, std=_ROUTER_DEVIATION)

    def forward(self, x: torch.Tensor) -> Gating:
        """Gating of vectors [batch, input_size]."""
        logits = self.w_g(x).float()
        chosen = top_k_mask(logits, self._config.k)
        loss = self._config.balance_weight * balance_loss(logits, chosen)
        return Gating(sparse_softmax(logits, chosen), chosen, loss)


def check_k(k: int, n: int) -> None:
    """Check that a gate can choose as many experts as it is told.

    Raises:
        ConfigError: ``k`` exceeds the number of experts.
    """
    if k > n:
        fix = f"set gate.k to at most {n}, or add experts"
        raise ConfigError(f"the gate has only {n} experts", key="gate.k", value=k, fix=fix)


def build_gate(config: GateConfig, input_size: int, n: int) -> Gate:
    """A new gate.

    Raises:
        ConfigError: Its ``k`` exceeds the number of experts ``n``.
    """
    if isinstance(config, NoisyTopKConfig):
        return NoisyTopKGate(input_size, n, config)
    if isinstance(config, TopKSoftmaxConfig):
        return TopKSoftmaxGate(input_size, n, config)
    return DenseGate(input_size, n)
