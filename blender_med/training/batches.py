"""The order in which questions are trained on, and the batches made of them.

Nothing here depends on where a run was interrupted: the order of an epoch follows from the seed
and the epoch, and what is drawn for a batch from the seed, the epoch and its questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
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
        order = self._order(np.random.default_rng([self._seed, self._epoch]))
        for start in range(0, len(order), self._step_size):
            step = order[start : start + self._step_size]
            by_length = step[np.argsort(-self._lengths[step], kind="stable")]
            yield from ((self._epoch, int(position)) for position in by_length)

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Positions of the examples of an epoch."""
        return rng.permutation(len(self._lengths))


class MixtureSampler(EpochSampler):
    """Keys of as many examples as there are, the data sets weighted by a temperature.

    A data set of n examples is drawn from n^(1 / temperature) in proportion to the others (Devlin
    2019, multilingual BERT; Raffel et al. 2020, section 3.5.2): 1 leaves the data as they are, a
    high temperature draws from all data sets alike. No example of a data set is drawn again
    before all of it were.

    Args:
        datasets: Data set of each example, [n].
        temperature: At least 1.
        lengths: As of :class:`EpochSampler`; the next two alike.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        temperature: float,
        lengths: Sequence[int],
        step_size: int,
        seed: int,
    ) -> None:
        super().__init__(lengths, step_size, seed)
        names = np.asarray(datasets)
        self._members = [np.flatnonzero(names == name) for name in dict.fromkeys(datasets)]
        sizes = [len(own) for own in self._members]
        self._draws = mixture_draws(sizes, temperature)

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        drawn = [
            np.concatenate([rng.permutation(own) for _ in range(0, draws, len(own))])[:draws]
            for own, draws in zip(self._members, self._draws, strict=True)
            if draws
        ]
        return rng.permutation(np.concatenate(drawn))


def mixture_draws(sizes: Sequence[int], temperature: float) -> list[int]:
    """Draws from each data set, in proportion to size^(1 / temperature); they sum to the sizes.

    What rounding down leaves over goes to the data sets with the largest remainders.
    """
    weights = np.asarray(sizes, dtype=np.float64) ** (1 / temperature)
    exact = weights / weights.sum() * sum(sizes)
    draws = np.floor(exact + 1e-9).astype(np.int64)
    most = np.argsort(draws - exact, kind="stable")[: sum(sizes) - int(draws.sum())]
    draws[most] += 1
    return [int(number) for number in draws]


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
