"""Sampling in which every row has a random generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from blender_med.fusers.config import Decoding


def row_seed(seed: int, ids: Sequence[int]) -> int:
    """Seed of one prompt: depends on ``seed`` and its tokens, not on its place or its batch."""
    digest = sha256(f"{seed}:{','.join(map(str, ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RowSampling:
    """Logits processor that draws each row's token and leaves it as the only one possible.

    Greedy decoding then takes it. Gumbel noise on the warped logits draws from their softmax
    (the Gumbel-max trick).

    Args:
        decoding: With ``temperature`` above 0.
        seeds: One for each row, [batch].
    """

    def __init__(self, decoding: Decoding, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._warpers: list[Any] = [TemperatureLogitsWarper(decoding.temperature)]
        self._warpers += [TopKLogitsWarper(decoding.sample_top_k)] if decoding.sample_top_k else []
        self._warpers += [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits with the drawn token alone possible; both [batch, vocabulary]."""
        warped = logits.float()
        for warper in self._warpers:
            warped = warper(ids, warped)
        token = (warped + self._gumbel(warped)).argmax(dim=-1, keepdim=True)
        return torch.full_like(warped, -torch.inf).scatter_(1, token, 0.0)

    def _gumbel(self, logits: torch.Tensor) -> torch.Tensor:
        rows = [torch.rand(logits.shape[1], generator=own) for own in self._generators]
        uniform = torch.stack(rows).clamp_min_(torch.finfo(torch.float32).tiny)
        return -torch.log(-torch.log(uniform)).to(logits.device)
