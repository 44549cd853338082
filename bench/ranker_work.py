"""How much bench/pairranker.py computes, and how fast the machine could."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from ranker_material import Group

from blender_med.packed import PackedLinear
from blender_med.rankers.pairranker import PairRanker

SQUARE = 2048
ROWS = 4096  # tokens of a forward pass
SECONDS = 1.0  # of each measurement of a peak


def row_lengths(ranker: PairRanker, questions: Sequence[Group]) -> list[int]:
    """Tokens of the rows of all ordered pairs."""
    encoder = ranker.encoder
    lengths = []
    for question, candidates in questions:
        source, ids = encoder.sources([question])[0], encoder.candidates(candidates)
        lengths += [encoder.length(source, a, b) for a in ids for b in ids if a is not b]
    return lengths


def operations(ranker: PairRanker, questions: Sequence[Group]) -> float:
    """Multiplications and additions of the matrix products of all ordered pairs.

    The last layer is counted for three places of a row, all that a ranker reads. DeBERTa's
    distances take as many products again for each of their two parts, twice as wide.
    """
    config = ranker.config.backbone_config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = row_lengths(ranker, questions)
    tokens, cells = sum(lengths), sum(length**2 for length in lengths)
    scores = 12 if config.model_type == "deberta-v2" else 4
    whole = tokens * (8 * hidden**2 + 4 * hidden * inner) + scores * hidden * cells
    places = 3 * len(lengths)
    last = tokens * 4 * hidden**2 + places * (4 * hidden**2 + 4 * hidden * inner)
    return float((layers - 1) * whole + last + 3 * scores * hidden * tokens)


def matrix_peaks(config: Any, dtype: torch.dtype) -> dict[str, float]:
    """Operations per second of a large square product, and of a layer's four linear maps."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)]
    return {
        "square_peak": _rate([(SQUARE, SQUARE)], SQUARE, dtype),
        "model_shapes_peak": _rate(shapes, ROWS, dtype),
    }


@torch.inference_mode()
def _rate(shapes: Sequence[tuple[int, int]], rows: int, dtype: torch.dtype) -> float:
    """Best rate of linear maps (in, out) run one after the other on so many rows."""
    maps = [PackedLinear(torch.randn(out, size, dtype=dtype) / size) for size, out in shapes]
    inputs = [torch.randn(rows, size, dtype=dtype) for size, _ in shapes]
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        for product, given in zip(maps, inputs, strict=True):
            product(given)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * sum(size * out for size, out in shapes) / best


def padding_share(ranker: PairRanker, questions: Sequence[Group]) -> float:
    """Share of the tokens that our forward passes run through and no row has."""
    run: list[int] = []
    embeddings = ranker.pretrained_model.embeddings
    hook = embeddings.register_forward_pre_hook(
        lambda _, args, given: run.append(given["input_ids"].numel()), with_kwargs=True
    )
    sources, candidates = zip(*questions, strict=True)
    found = ranker.rank(list(sources), list(candidates), dtype="bfloat16")
    hook.remove()
    return 1 - sum(own.tokens for own in found) / sum(run)
