"""Rows that a fuser is trained on: the prompt that inference would send, then the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator

from blender_med.data.fusion import FusionExample
from blender_med.fusers.prompts import FusionPrompt, Ids, PromptFormatter
from blender_med.training.batches import Key
from blender_med.training.fuser_config import ShownCandidates

IGNORED = -100  # label of a token that has no part in the loss


def drawn_candidates(
    example: FusionExample, shown: ShownCandidates, rng: Generator
) -> tuple[str, ...]:
    """Candidates of one training prompt: the best, some left out, in the order that is asked."""
    best = example.candidates[: shown.top_k]
    kept = np.flatnonzero(rng.random(len(best)) >= shown.dropout)
    if not len(kept):
        kept = rng.integers(len(best), size=1)
    if shown.order == "shuffled":
        kept = rng.permutation(kept)
    return tuple(best[i] for i in kept)


def dev_prompt(formatter: PromptFormatter, example: FusionExample, top_k: int) -> FusionPrompt:
    """The prompt of inference: the best candidates in their order."""
    return formatter.encode(example.instruction, example.input, example.candidates[:top_k])


def fused_length(example: FusionExample, top_k: int, characters: int) -> int:
    """Characters of an example, a measure of the length of its row.

    Args:
        example: The example.
        top_k: Candidates that its prompt shows.
        characters: Most that count of a candidate.
    """
    candidates = example.candidates[:top_k]
    own = sum(min(len(text), characters) for text in candidates)
    return len(example.instruction) + len(example.input) + own


class FuserBatches:
    """Turns items of a dataset into the arguments of a model's forward pass.

    What is drawn for an example depends on the seed, the epoch and the example alone.

    Args:
        formatter: Of the prompts.
        shown: Candidates of a prompt.
        target_maxlength: Most tokens of an answer, its end included.
        encoder_decoder: The prompt is the encoder's, the answer the decoder's; else one row.
        seed: Of the job.
    """

    def __init__(
        self,
        formatter: PromptFormatter,
        shown: ShownCandidates,
        target_maxlength: int,
        *,
        encoder_decoder: bool,
        seed: int,
    ) -> None:
        self._formatter, self._shown, self._seed = formatter, shown, seed
        self._target_maxlength, self._encoder_decoder = target_maxlength, encoder_decoder
        tokenizer = formatter.tokenizer
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self._pad_id = end if pad is None else pad

    def __call__(self, items: Sequence[tuple[Key, FusionExample]]) -> dict[str, torch.Tensor]:
        """Tensors for ``forward(**batch)``, [rows, longest], padded on the right."""
        rows = [self.row(key, example) for key, example in items]
        if not self._encoder_decoder:
            rows = [(prompt + target, [IGNORED] * len(prompt) + target) for prompt, target in rows]
        return {
            "input_ids": padded([inputs for inputs, _ in rows], self._pad_id),
            "attention_mask": padded([[1] * len(inputs) for inputs, _ in rows], 0),
            "labels": padded([labels for _, labels in rows], IGNORED),
        }

    def row(self, key: Key, example: FusionExample) -> tuple[Ids, Ids]:
        """Tokens of the prompt and of the answer."""
        rng = np.random.default_rng([self._seed, *key])
        candidates = drawn_candidates(example, self._shown, rng)
        prompt = self._formatter.encode(example.instruction, example.input, candidates)
        return list(prompt.ids), self._formatter.target_ids(example.target, self._target_maxlength)


def padded(rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    """Rows of equal length, [rows, longest], filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])
