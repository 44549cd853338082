"""Log-probabilities of tokens under a language model's output layer, without its logits at large.

A vocabulary of 50,000 makes the logits of 200 tokens 40 MB, which the usual
``log_softmax(linear(hidden))`` writes and reads several times. Here the vocabulary is walked in
blocks that stay in the processor's cache, and only the logarithm of the sum is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear

from blender_med.packed import PackedLinear, can_pack

# Rows and columns of a block of logits: 4 MB in float32 on a CPU, 512 MB on a GPU.
_CPU_BLOCK = (256, 4096)
_GPU_BLOCK = (8192, 16384)


class VocabularyHead:
    """Output layer of a language model: logits = hidden @ weight.T + bias.

    Args:
        weight: Output embedding, [vocabulary, hidden].
        bias: [vocabulary], or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight.detach()
        self._bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().flatten()
        self._rows, columns = _CPU_BLOCK if weight.device.type == "cpu" else _GPU_BLOCK
        blocks = zip(self._weight.split(columns), self._bias.split(columns), strict=True)
        self._blocks = [_projection(*block) for block in blocks]

    def log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability in nats of each target token.

        Args:
            hidden: Last hidden states, [n, hidden].
            targets: Token ids, [n].

        Returns:
            [n], float32, <= 0 up to rounding; empty for n = 0.
        """
        parts = zip(hidden.split(self._rows), targets.split(self._rows), strict=True)
        return torch.cat([self._logits(h, t) - self._log_normaliser(h) for h, t in parts])

    def _logits(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        products = (hidden.float() * self._weight[targets].float()).sum(dim=1)
        return products + self._bias[targets].float()

    def _log_normaliser(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(torch.stack([_logsumexp(b(hidden)) for b in self._blocks]), dim=0)


def _projection(weight: torch.Tensor, bias: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    if can_pack(weight):
        return PackedLinear(weight, bias)
    return lambda hidden: linear(hidden, weight, bias)


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """Row-wise log of the sum of exponentials in float32; overwrites a float32 argument."""
    logits = logits.float()
    largest = logits.amax(dim=1, keepdim=True)
    return logits.sub_(largest).exp_().sum(dim=1).log_() + largest[:, 0]
