"""Encoders of the BERT kind for inference: rows without padding, states at the prefixes only.

The layers are those of :mod:`blender_med.rankers.encoder_layers`; what differs between the
families is where a layer keeps its weights, how places are numbered, and the attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from blender_med.rankers.collate import Pair
from blender_med.rankers.disentangled import DisentangledAttention, DistanceTables
from blender_med.rankers.encoder_layers import (
    Attention,
    EncoderLayer,
    LastLayer,
    LayerParts,
    runs,
)

_KEPT_LENGTHS = 64
# Batches on a CPU are filled up to multiples of so many tokens and rows: oneDNN compiles a product
# anew for every size, which takes as long as the product of several hundred tokens.
_CPU_TOKENS, _CPU_ROWS = 128, 8


class PrefixEncoder:
    """An encoder of the BERT kind, see :func:`is_supported`.

    Args:
        backbone: Model of transformers; its weights are copied, except those of the embeddings.
        opening: Tokens before the prefix of each segment.
        dtype: Number format of the computation.
    """

    def __init__(self, backbone: Any, opening: int, dtype: torch.dtype) -> None:
        config = backbone.config
        self._embeddings, self._opening, self._dtype = backbone.embeddings, opening, dtype
        self._first_place = _FIRST_PLACE.get(config.model_type, 0)
        parts_of, attention_of = _FAMILIES[config.model_type]
        parts = [parts_of(layer) for layer in backbone.encoder.layer]
        attention = attention_of(backbone, dtype)
        size = config.hidden_size // config.num_attention_heads
        self._layers = [
            EncoderLayer(i, p, attention, size, dtype) for i, p in enumerate(parts[:-1])
        ]
        self._last = LastLayer(len(parts) - 1, parts[-1], attention, size, dtype)

    def __call__(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """States at the prefixes of source and both candidates, [pairs, 3, hidden], float32."""
        filling = self._filling(pairs)
        rows = [*pairs, *filling]
        batch = list(runs([row.length for row in rows]))
        x = self._embedded(rows)
        for layer in self._layers:
            x = layer(x, batch)
        opening = self._opening
        places = [
            (opening, len(p.source) + opening, len(p.source) + len(p.left) + opening) for p in pairs
        ]
        places += [(0, 0, 0)] * len(filling)
        return self._last(x, batch, torch.tensor(places, device=x.device)).float()[: len(pairs)]

    def _filling(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Rows that fill a batch up, where it needs some; no other row attends to them."""
        if self._device.type != "cpu":
            return []
        missing = -sum(pair.length for pair in pairs) % _CPU_TOKENS
        rows = -len(pairs) % _CPU_ROWS or (_CPU_ROWS if missing else 0)
        longest = max(pair.length for pair in pairs)  # which the model has places for
        while not rows <= missing <= rows * longest:
            if missing < rows:
                missing += _CPU_TOKENS
            else:
                rows += _CPU_ROWS
        ends = [missing * (i + 1) // rows for i in range(rows)]
        return [Pair([0] * (end - start), [], []) for start, end in pairwise([0, *ends])]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._embeddings.word_embeddings.weight.device
        return device

    def _embedded(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Embeddings of all tokens, row after row, [tokens, hidden]."""
        tokens = [token for pair in pairs for segment in pair for token in segment]
        places = [torch.arange(pair.length) for pair in pairs]
        ids = torch.tensor([tokens], device=self._device)
        place = torch.cat(places)[None].to(self._device) + self._first_place
        embedded = self._embeddings(
            input_ids=ids, position_ids=place, token_type_ids=torch.zeros_like(ids)
        )
        return embedded[0].to(self._dtype)


class PlainAttention:
    """Scaled dot products, with a bias by relative place where the model has one.

    Args:
        bias: Given a length: what is added to the scores, [heads, length, length].
    """

    def __init__(self, bias: Callable[[int], torch.Tensor] | None = None) -> None:
        self._bias = bias

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted values, of the query's shape."""
        bias = None if self._bias is None else self._bias(key.shape[2])[None]
        if bias is not None and places is not None:
            bias = bias[0][:, places].transpose(0, 1)
        return scaled_dot_product_attention(query, key, value, attn_mask=bias)


def is_supported(config: Any) -> bool:
    """Whether :class:`PrefixEncoder` runs models of this configuration."""
    is_encoder = config.model_type in _FAMILIES and not getattr(config, "is_decoder", False)
    if not is_encoder or config.hidden_act != "gelu":
        return False
    if config.model_type != "deberta-v2":
        return True
    has_distances = config.relative_attention and bool(config.pos_att_type)
    return has_distances and not getattr(config, "conv_kernel_size", 0)


def _bert_parts(layer: Any) -> LayerParts:
    own, output = layer.attention.self, layer.attention.output
    return LayerParts(
        own.query, own.key, own.value, output.dense, output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _mpnet_parts(layer: Any) -> LayerParts:
    own = layer.attention.attn
    return LayerParts(
        own.q, own.k, own.v, own.o, layer.attention.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _deberta_parts(layer: Any) -> LayerParts:
    own, output = layer.attention.self, layer.attention.output
    return LayerParts(
        own.query_proj, own.key_proj, own.value_proj, output.dense, output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _bert_attention(backbone: Any, dtype: torch.dtype) -> Attention:
    return PlainAttention()


def _mpnet_attention(backbone: Any, dtype: torch.dtype) -> Attention:
    encoder = backbone.encoder

    @lru_cache(_KEPT_LENGTHS)
    def bias(length: int) -> torch.Tensor:
        device = encoder.relative_attention_bias.weight.device
        return encoder.compute_position_bias(torch.empty(1, length, device=device))[0].to(dtype)

    return PlainAttention(bias)


def _deberta_attention(backbone: Any, dtype: torch.dtype) -> Attention:
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    own = backbone.encoder.layer[0].attention.self
    embeddings = backbone.encoder.get_rel_embedding().detach()
    span = own.pos_ebd_size
    parts = 1 + len({"c2p", "p2c"} & set(own.pos_att_type))

    @lru_cache(_KEPT_LENGTHS)
    def buckets(length: int) -> torch.Tensor:
        distance = torch.arange(1 - length, length, device=embeddings.device)
        if own.position_buckets > 0:
            limit = own.max_relative_positions
            distance = make_log_bucket_position(distance, own.position_buckets, limit).long()
        return (distance + span).clamp(0, 2 * span - 1)

    tables = [
        _tables(layer.attention.self, embeddings[: 2 * span], dtype)
        for layer in backbone.encoder.layer
    ]
    return DisentangledAttention(tables, buckets, 1 / math.sqrt(parts * own.attention_head_size))


@torch.no_grad()
def _tables(own: Any, embeddings: torch.Tensor, dtype: torch.dtype) -> DistanceTables:
    def heads(projection: Any) -> torch.Tensor:
        split = projection(embeddings).unflatten(1, (own.num_attention_heads, -1))
        return split.transpose(0, 1).to(dtype).contiguous()

    key = own.key_proj if own.share_att_key else getattr(own, "pos_key_proj", None)
    query = own.query_proj if own.share_att_key else getattr(own, "pos_query_proj", None)
    return DistanceTables(
        heads(key) if "c2p" in own.pos_att_type else None,
        heads(query) if "p2c" in own.pos_att_type else None,
    )


_FAMILIES: dict[str, tuple[Callable[[Any], LayerParts], Callable[..., Attention]]] = {
    "bert": (_bert_parts, _bert_attention),
    "roberta": (_bert_parts, _bert_attention),
    "xlm-roberta": (_bert_parts, _bert_attention),
    "camembert": (_bert_parts, _bert_attention),
    "mpnet": (_mpnet_parts, _mpnet_attention),
    "deberta-v2": (_deberta_parts, _deberta_attention),
}
# Number of the first place. These models start after the padding index, which is 1 in all.
_FIRST_PLACE = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
