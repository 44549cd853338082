"""The multi-task mixture of experts of SummaReranker.

Ravaut, Joty and Chen 2022, section 3.3; the gate is the noisy top-k gate of Shazeer et al. 2017.
"""

from __future__ import annotations

import torch
from torch import nn

_LEAST_NOISE = 1e-2


class NoisyTopKGate(nn.Module):
    """Weights of k of the experts (Shazeer et al. 2017, equations 3 to 5); noise in training.

    Args:
        hidden_size: Width of the input.
        n_experts: Experts to choose from.
        k: Experts with a weight above 0.
    """

    def __init__(self, hidden_size: int, n_experts: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.weight = nn.Linear(hidden_size, n_experts, bias=False)
        self.noise = nn.Linear(hidden_size, n_experts, bias=False)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of the experts, and how unevenly they are used.

        Args:
            states: [batch, hidden].

        Returns:
            Weights, >= 0, k of a row above 0, of sum 1, [batch, experts]; and the sum of the
            squared variations of importance and load, a scalar, 0 outside training.
        """
        clean = self.weight(states).float()
        if not self.training:
            return self._weights(clean), clean.new_zeros(())
        deviation = nn.functional.softplus(self.noise(states).float()) + _LEAST_NOISE
        noisy = clean + deviation * torch.randn_like(clean)
        weights = self._weights(noisy)
        load = self._load(clean, noisy, deviation)
        return weights, squared_variation(weights.sum(dim=0)) + squared_variation(load)

    def _weights(self, logits: torch.Tensor) -> torch.Tensor:
        best = logits.topk(self.k, dim=-1)
        weights = torch.zeros_like(logits)
        return weights.scatter(-1, best.indices, best.values.softmax(dim=-1))

    def _load(
        self, clean: torch.Tensor, noisy: torch.Tensor, deviation: torch.Tensor
    ) -> torch.Tensor:
        """Expected number of rows that choose each expert, [experts] (their equations 8 to 10)."""
        if self.k == clean.shape[-1]:
            return clean.new_full((self.k,), float(len(clean)))
        best = noisy.topk(self.k + 1, dim=-1).values
        last_in, first_out = best[:, -2:-1], best[:, -1:]
        threshold = torch.where(noisy > first_out, first_out, last_in)
        return torch.special.ndtr((clean - threshold) / deviation).sum(dim=0)


class MultiTaskMixture(nn.Module):
    """Logit of each task: a shared bottom, experts chosen by each task's gate, a tower each.

    There are twice as many experts as tasks, and each gate chooses as many as there are tasks,
    as in llm-blender.

    Args:
        hidden_size: Width of the input and of every layer.
        n_tasks: Tasks.
    """

    def __init__(self, hidden_size: int, n_tasks: int) -> None:
        super().__init__()
        self.bottom = _two_layers(hidden_size)
        self.experts = nn.ModuleList(_two_layers(hidden_size) for _ in range(2 * n_tasks))
        self.gates = nn.ModuleList(
            NoisyTopKGate(hidden_size, 2 * n_tasks, n_tasks) for _ in range(n_tasks)
        )
        self.towers = nn.ModuleList(nn.Linear(hidden_size, 1) for _ in range(n_tasks))

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tasks, [batch, n_tasks], and the gates' unevenness, a scalar.

        Args:
            states: [batch, hidden].
        """
        shared = self.bottom(states)
        answers = torch.stack([expert(shared) for expert in self.experts], dim=1)
        gated = [gate(shared) for gate in self.gates]
        logits = [
            tower((weights[..., None] * answers).sum(dim=1).to(states.dtype))
            for tower, (weights, _) in zip(self.towers, gated, strict=True)
        ]
        return torch.cat(logits, dim=-1), torch.stack([loss for _, loss in gated]).sum()


def squared_variation(values: torch.Tensor) -> torch.Tensor:
    """Squared coefficient of variation, a scalar: 0 where all values [n], n >= 2, are equal."""
    return values.var() / (values.mean().square() + 1e-10)


def _two_layers(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
