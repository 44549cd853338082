"""Batches that a PairRanker trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from blender_med.rankers.collate import CANDIDATE_1, CANDIDATE_2, Pair, PairEncoder, collate
from blender_med.rankers.losses import sample_pairs

if TYPE_CHECKING:
    from blender_med.data.pairs import RankingExample
    from blender_med.rankers.pair_config import PairRankerConfig

# A pair with the labels of both candidates, [2, n_tasks].
LabelledPair = tuple[Pair, NDArray[np.float64]]


def training_batch(
    examples: Sequence[RankingExample],
    encoder: PairEncoder,
    config: PairRankerConfig,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """Pairs of the examples' candidates, tokenised and padded, with their labels.

    With ``swap_consistency`` every pair stands in both orders: rows i and i + half.

    Args:
        examples: Questions with candidates and labels; each has at least two distinct candidates.
        encoder: Tokenises.
        config: Says which pairs are drawn.
        rng: Draws the pairs and their order.

    Returns:
        Model inputs, and ``labels``, [pairs, 2, n_tasks].
    """
    drawn = [pair for example in examples for pair in _drawn(example, encoder, config, rng)]
    if config.swap_consistency:
        drawn += [(_swapped(pair, encoder), labels[::-1]) for pair, labels in drawn]
    pairs = [pair for pair, _ in drawn]
    batch = collate(pairs, encoder.pad_id, is_encoder_decoder=encoder.is_encoder_decoder)
    labels = np.stack([labels for _, labels in drawn])
    return batch | {"labels": torch.tensor(labels, dtype=torch.float32)}


def _drawn(
    example: RankingExample,
    encoder: PairEncoder,
    config: PairRankerConfig,
    rng: np.random.Generator,
) -> Iterator[LabelledPair]:
    drawn = sample_pairs(
        example.labels,
        example.candidates,
        mode=config.sub_sampling_mode,
        num_pos=config.num_pos,
        num_neg=config.num_neg,
        ratio=config.sub_sampling_ratio,
        rng=rng,
    )
    source = encoder.sources([example.source])[0]
    ids = encoder.candidates(example.candidates)
    for i, j in drawn:
        yield encoder.pair(source, ids[i], ids[j]), example.labels[[i, j]]


def _swapped(pair: Pair, encoder: PairEncoder) -> Pair:
    """The same candidates in the other order."""
    first, second = encoder.prefix_ids[CANDIDATE_1], encoder.prefix_ids[CANDIDATE_2]
    left = [first if token == second else token for token in pair.right]
    right = [second if token == first else token for token in pair.left]
    return Pair(pair.source, left, right)
