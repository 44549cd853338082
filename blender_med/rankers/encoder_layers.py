"""Encoder layers for inference: no padding, fused operators, a last layer for single places.

They equal the post-norm layers of transformers (BERT and its descendants) up to rounding:
x = norm(x + attention(x)); x = norm(x + down(gelu(up(x)))). Rows stand one after the other,
sorted by length; attention takes each run of rows of one length at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.functional import gelu, linear

from blender_med.packed import PackedLinear, can_pack


class Run(NamedTuple):
    """Rows of one length that stand one after the other.

    Attributes:
        row: The first one among the rows of the batch.
        rows: How many.
        length: Tokens of each.
        start: Of the first one among the tokens of the batch.
    """

    row: int
    rows: int
    length: int
    start: int

    @property
    def tokens(self) -> slice:
        """The run's tokens among those of the batch."""
        return slice(self.start, self.start + self.rows * self.length)


def runs(lengths: Sequence[int]) -> Iterator[Run]:
    """Runs of rows of these lengths, in order."""
    row = start = 0
    for length, group in groupby(lengths):
        run = Run(row, len(list(group)), length, start)
        yield run
        row, start = row + run.rows, run.tokens.stop


class Attention(Protocol):
    """Attention of all layers. Query, key and value are [rows, heads, length, head size]."""

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted values, of the query's shape.

        Args:
            layer: Its index.
            query: Of all places, or of those in ``places`` only.
            key: Of all places.
            value: Of all places.
            places: Where the queries stand, [rows, queries]; None: everywhere.
        """
        ...


class LayerParts(NamedTuple):
    """Modules of one layer, under one name for all families."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.Module
    up: nn.Linear
    down: nn.Linear
    norm: nn.Module


class Affine(nn.Module):
    """An affine map with a plain weight; same interface as :class:`PackedLinear`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: str = "none") -> None:
        super().__init__()
        self._weight, self._bias, self._activation = weight, bias, activation

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the map to ``rows``, [..., in]."""
        result = linear(rows, self._weight, self._bias)
        return gelu(result) if self._activation == "gelu" else result

    def add(self, rows: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Apply the map to ``rows``, [..., in], and add ``residual``, [..., out]."""
        return linear(rows, self._weight, self._bias) + residual


def affine(
    *parts: nn.Linear, dtype: torch.dtype, activation: str = "none"
) -> Affine | PackedLinear:
    """The linear layers as one, their outputs side by side; packed for the CPU where it can be."""
    weight = torch.cat([part.weight.detach() for part in parts]).to(dtype)
    bias = torch.cat([part.bias.detach() for part in parts]).to(dtype)
    return (PackedLinear if can_pack(weight) else Affine)(weight, bias, activation)


class _Layer:
    """What both kinds of layer share.

    Args:
        index: Of the layer.
        parts: On the device of the computation; their weights are copied.
        attention: Of the model.
        head_size: Size of an attention head.
        dtype: Number format of the computation.
    """

    def __init__(
        self,
        index: int,
        parts: LayerParts,
        attention: Attention,
        head_size: int,
        dtype: torch.dtype,
    ) -> None:
        self._index, self._attention, self._head_size = index, attention, head_size
        self._output = affine(parts.attention_output, dtype=dtype)
        self._attention_norm = copy.deepcopy(parts.attention_norm).to(dtype)
        self._up = affine(parts.up, dtype=dtype, activation="gelu")
        self._down = affine(parts.down, dtype=dtype)
        self._norm = copy.deepcopy(parts.norm).to(dtype)

    def _heads(self, tokens: torch.Tensor, rows: int) -> torch.Tensor:
        """[rows * length, hidden] as [rows, heads, length, head size]."""
        return tokens.unflatten(0, (rows, -1)).unflatten(2, (-1, self._head_size)).transpose(1, 2)

    def _finish(self, values: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([v.transpose(1, 2).flatten(2).flatten(0, 1) for v in values])
        x = self._attention_norm(self._output.add(joined, x))
        return self._norm(self._down.add(self._up(x), x))


class EncoderLayer(_Layer):
    """A layer over all places."""

    def __init__(
        self,
        index: int,
        parts: LayerParts,
        attention: Attention,
        head_size: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(index, parts, attention, head_size, dtype)
        self._qkv = affine(parts.query, parts.key, parts.value, dtype=dtype)

    def __call__(self, x: torch.Tensor, batch: Sequence[Run]) -> torch.Tensor:
        """Next states of all tokens, [tokens, hidden]."""
        qkv = self._qkv(x).chunk(3, dim=1)
        values = [
            self._attention(self._index, *(self._heads(t[run.tokens], run.rows) for t in qkv))
            for run in batch
        ]
        return self._finish(values, x)


class LastLayer(_Layer):
    """A layer whose result is wanted at a few places only."""

    def __init__(
        self,
        index: int,
        parts: LayerParts,
        attention: Attention,
        head_size: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(index, parts, attention, head_size, dtype)
        self._query = affine(parts.query, dtype=dtype)
        self._key_value = affine(parts.key, parts.value, dtype=dtype)

    def __call__(self, x: torch.Tensor, batch: Sequence[Run], places: torch.Tensor) -> torch.Tensor:
        """States at the places of each row, [rows, places, hidden].

        Args:
            x: [tokens, hidden].
            batch: Runs of the rows.
            places: Wanted places in each row, [rows, places].
        """
        asking = x[(row_starts(batch, x.device) + places).flatten()]
        query = self._query(asking).unflatten(0, places.shape)
        key_value = self._key_value(x).chunk(2, dim=1)
        values = []
        for run in batch:
            rows = slice(run.row, run.row + run.rows)
            asked = self._heads(query[rows].flatten(0, 1), run.rows)
            key, value = (self._heads(t[run.tokens], run.rows) for t in key_value)
            values.append(self._attention(self._index, asked, key, value, places[rows]))
        return self._finish(values, asking).unflatten(0, places.shape)


def row_starts(batch: Sequence[Run], device: torch.device) -> torch.Tensor:
    """First token of each row among the tokens of the batch, [rows, 1]."""
    starts = [run.start + run.length * i for run in batch for i in range(run.rows)]
    return torch.tensor(starts, device=device)[:, None]
