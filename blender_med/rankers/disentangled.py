"""Disentangled attention of DeBERTa (He et al. 2021, equation 4) without gathering by index.

The score of query i and key j is (q_i k_j + q_i K(i - j) + k_j Q(i - j)) / sqrt(3 d), where K and Q
are projected embeddings of relative distances. Multiplied with the embeddings of all distances in
their order, row i of the product holds the scores of its keys side by side, one place further
left than row i - 1 does: a view with another stride reads them off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

# Numbers in a block of scores on a CPU: it stays in the cache.
_CPU_BLOCK = 2**20


class DistanceTables(NamedTuple):
    """Projected embeddings of a layer's distance buckets, [heads, buckets, head size].

    Attributes:
        key: For content-to-position scores; None where the model has none.
        query: For position-to-content scores; None where the model has none.
    """

    key: torch.Tensor | None
    query: torch.Tensor | None


class DisentangledAttention:
    """Attention of all layers; see :class:`blender_med.rankers.encoder_layers.Attention`.

    Args:
        tables: Of each layer.
        buckets: Given a length: the bucket of each distance (query's place less key's) from
            -(length - 1) to length - 1, [2 * length - 1].
        scale: Of the scores: 1 / sqrt(parts * head size).
    """

    def __init__(
        self,
        tables: Sequence[DistanceTables],
        buckets: Callable[[int], torch.Tensor],
        scale: float,
    ) -> None:
        self._tables, self._buckets, self._scale = tables, buckets, scale

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted values, of the query's shape."""
        query = query * self._scale
        buckets = self._buckets(key.shape[2])
        by_distance = DistanceTables(
            *(None if table is None else table[:, buckets] for table in self._tables[layer])
        )
        if places is not None:
            bias = _bias_at(query, key * self._scale, by_distance, places)
            return attend(query, key, value, attn_mask=bias, scale=1.0)
        result = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        result = result.transpose(1, 2)
        for rows, heads in _blocks(query):
            block = rows, heads
            tables = DistanceTables(*(None if t is None else t[heads] for t in by_distance))
            bias = _bias(query[block], key[block] * self._scale, tables)
            result[block] = attend(
                query[block], key[block], value[block], attn_mask=bias, scale=1.0
            )
        return result


def _blocks(query: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and heads to be done at once: all on a GPU, what fits the cache on a CPU."""
    rows, heads, length, _ = query.shape
    if query.is_cuda:
        yield slice(rows), slice(heads)
        return
    step = max(1, _CPU_BLOCK // (2 * length * length))
    for row in range(rows):
        for head in range(0, heads, step):
            yield slice(row, row + 1), slice(head, head + step)


def _bias(query: torch.Tensor, key: torch.Tensor, tables: DistanceTables) -> torch.Tensor:
    """Scores from distances, [rows, heads, length, length]; tables in the order of distances."""
    parts = []
    if tables.key is not None:
        parts.append(_diagonals(query @ tables.key.flip(1).transpose(1, 2)))
    if tables.query is not None:
        parts.append(_diagonals(key @ tables.query.transpose(1, 2)).transpose(2, 3))
    return parts[0] + parts[1] if len(parts) == 2 else parts[0]


def _diagonals(products: torch.Tensor) -> torch.Tensor:
    """Entry (i, j) is the product (i, j - i + length - 1), [rows, heads, length, length]."""
    length, width = products.shape[2:]
    strides = (*products.stride()[:2], width - 1, 1)
    return products.as_strided((*products.shape[:3], length), strides, length - 1)


def _bias_at(
    query: torch.Tensor, key: torch.Tensor, tables: DistanceTables, places: torch.Tensor
) -> torch.Tensor:
    """The same for queries at ``places``, [rows, heads, places, length]."""
    length = key.shape[2]
    distance = places[:, :, None] - torch.arange(length, device=places.device)
    index = distance + length - 1
    parts = []
    if tables.key is not None:
        products = query @ tables.key.transpose(1, 2)
        wanted = index[:, None].expand(-1, products.shape[1], -1, -1)
        parts.append(products.gather(3, wanted))
    if tables.query is not None:
        parts.append(torch.einsum("rhld,hrpld->rhpl", key, tables.query[:, index]))
    return parts[0] + parts[1] if len(parts) == 2 else parts[0]
