"""Batches of stored states for an embedding fuser, and the options that it chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from blender_med.data.embedded import QUESTION_TEXT, StateExample
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.embedding_checkpoint import EmbeddingFuserConfig
from blender_med.fusers.hidden_states import QUESTION_ENCODER, Key, StateStore

_QUESTIONS = 256  # in a batch of inference
_LEAST = 1e-30  # probability; what is less likely counts as that


class StateBatches:
    """Reads the states of a batch of examples as the arguments of a fuser's forward pass.

    Args:
        store: Of the states.
        config: Of the fuser: which experts it reads, and what its gate reads.
        sparse: Whether states of experts may be missing where a gate has not chosen them.
    """

    def __init__(
        self, store: StateStore, config: EmbeddingFuserConfig, *, sparse: bool = False
    ) -> None:
        self._store, self._config, self._sparse = store, config, sparse

    @property
    def experts(self) -> Sequence[str]:
        """Names of the experts, in the order of their weights."""
        return self._config.experts

    def inputs(self, examples: Sequence[StateExample]) -> dict[str, Any]:
        """States by expert [texts, slots, width], owners [texts], questions [examples, width].

        Raises:
            DataError: The states of a text are missing.
        """
        keys = [Key(e.question_id, text) for e in examples for text in e.candidates]
        sizes = torch.tensor([len(e.candidates) for e in examples])
        names = [n for n in self.experts if not self._sparse or n in self._store.experts]
        states = {
            n: torch.from_numpy(self._store.rows(n, keys, sparse=self._sparse)) for n in names
        }
        return {
            "states": states,
            "owners": torch.arange(len(examples)).repeat_interleave(sizes),
            "questions": self._questions(examples),
        }

    def _questions(self, examples: Sequence[StateExample]) -> torch.Tensor | None:
        if self._config.gate_input != "question":
            return None
        keys = [Key(e.question_id, QUESTION_TEXT) for e in examples]
        return torch.from_numpy(self._store.rows(QUESTION_ENCODER, keys))[:, 0]


class Chosen(NamedTuple):
    """What a fuser makes of one question.

    Attributes:
        probabilities: Of the options, they sum to 1, [options].
        weights: Of the experts, [n].
    """

    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]


def choice_value(probabilities: Sequence[float] | NDArray[np.float64], gold: int, by: str) -> float:
    """1 for the right option and 0 for another, or its log-likelihood in nats.

    Args:
        probabilities: Of the options; of equal ones the first is chosen.
        gold: The right option.
        by: ``accuracy`` or ``log_likelihood``.
    """
    if by == "accuracy":
        return float(np.argmax(probabilities) == gold)
    return float(np.log(max(probabilities[gold], _LEAST)))


@torch.inference_mode()
def choose(
    fuser: EmbeddingFuser, batches: StateBatches, examples: Sequence[StateExample]
) -> Iterator[Chosen]:
    """Probabilities and weights for each example by a fuser with the head ``choice``.

    The fuser must be in evaluation mode.

    Raises:
        DataError: States are missing, or not finite.
    """
    for start in range(0, len(examples), _QUESTIONS):
        own = examples[start : start + _QUESTIONS]
        output = fuser(**batches.inputs(own))
        table = output.logits.double().softmax(dim=1).cpu().numpy()
        weights = output.weights.double().cpu().numpy()
        for row, example, weight in zip(table, own, weights, strict=True):
            yield Chosen(row[: len(example.candidates)], weight)
