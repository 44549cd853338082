"""Sampling with one random generator a row, for the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from blender_med.experts.config import Sampling
from blender_med.experts.requests import Tick

if TYPE_CHECKING:
    import torch


class SeededDraw:
    """Logits processor that samples with one generator a row and records log-probabilities.

    It leaves one token possible, so that greedy decoding takes it: a row's sample then depends
    on its own seed alone and not on its batch. Sampling adds Gumbel noise to the warped logits
    (the Gumbel-max trick), which draws from their softmax.
    """

    def __init__(
        self, sampling: Sampling, seeds: Sequence[int], prompt_length: int, tick: Tick
    ) -> None:
        import torch

        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._prompt_length = prompt_length
        self._tick = tick
        self._steps: list[torch.Tensor] = []
        self._warpers = _warpers(sampling)

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits with the drawn token alone possible; both [batch, vocabulary]."""
        import torch

        self._tick()
        logits = logits.float()
        raw = torch.log_softmax(logits, dim=-1)
        for warper in self._warpers:
            logits = warper(ids, logits)
        if self._sampling.temperature > 0:
            logits = logits + self._gumbel(logits)
        token = logits.argmax(dim=-1, keepdim=True)
        self._steps.append(raw.gather(1, token).squeeze(1))
        return torch.full_like(logits, -torch.inf).scatter_(1, token, 0.0)

    def _gumbel(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        noise = [torch.rand(logits.shape[1], generator=g) for g in self._generators]
        uniform = torch.stack(noise).clamp_min_(torch.finfo(torch.float32).tiny)
        return -torch.log(-torch.log(uniform)).to(logits.device)

    def logprobs(self) -> list[list[float]]:
        """Log-probability in nats of each drawn token before warping, [batch][steps]."""
        import torch

        rows: list[list[float]] = torch.stack(self._steps, dim=1).tolist()
        return rows


def _warpers(sampling: Sampling) -> list[Any]:
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chosen: list[Any] = []
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        chosen.append(TemperatureLogitsWarper(float(sampling.temperature)))
        chosen += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
        chosen += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
        chosen += [MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    return chosen
