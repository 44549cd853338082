"""The order in which questions are trained on, and the batches made of them.

Nothing here depends on where a run was interrupted: the order of an epoch follows from the seed
and the epoch, and what is drawn for a batch from the seed, the epoch and its questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from blender_med.data.pairs import RankingExample

if TYPE_CHECKING:
    import torch

Key = tuple[int, int]


class ExampleDataset(Dataset[tuple[Key, Any]]):
    """Examples by (epoch, position), each with its key."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, key: Key) -> tuple[Key, Any]:
        return key, self._examples[key[1]]


class EpochSampler(Sampler[Key]):
    """Keys of every example in an order of the epoch's own.

    Examples are shuffled; those of one optimiser step then stand by length, so that the forward
    passes of the step pad little. That changes no step's set of examples.

    Args:
        lengths: Any measure of length of each example, [n].
        step_size: Examples of one optimiser step.
        seed: Seed of the job.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._step_size, self._seed = step_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next; the data loader calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._lengths))
        for start in range(0, len(order), self._step_size):
            step = order[start : start + self._step_size]
            by_length = step[np.argsort(-self._lengths[step], kind="stable")]
            yield from ((self._epoch, int(position)) for position in by_length)


class BatchMaker:
    """Turns items of :class:`ExampleDataset` into the arguments of a ranker's forward pass.

    Args:
        ranker: Has ``training_batch(examples, rng)``.
        seed: Seed of the job.
    """

    def __init__(self, ranker: Any, seed: int) -> None:
        self._ranker, self._seed = ranker, seed

    def __call__(self, items: Sequence[tuple[Key, RankingExample]]) -> dict[str, torch.Tensor]:
        """Tensors for ``forward(**batch)``."""
        keys = [number for key, _ in items for number in key]
        rng = np.random.default_rng([self._seed, *keys])
        batch: dict[str, torch.Tensor] = self._ranker.training_batch([e for _, e in items], rng)
        return batch


def text_length(example: RankingExample) -> int:
    """Characters of an example's source and longest candidate: what its rows will be padded to."""
    return len(example.source) + max(map(len, example.candidates))
