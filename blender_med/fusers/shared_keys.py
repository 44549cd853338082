"""Beam search whose beams share the keys and values of the source they read.

The beams of a question attend to the same encoder states. ``generate`` repeats these states for
every beam, projects each copy to keys and values, and copies them whenever the beams change
places. Here they are projected once per question and never move: with four beams that is a
quarter of the memory read in cross-attention and none of its copies. The keys that the beams
write themselves grow in place, and change places in one copy between two buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_shared_keys"
# Families whose code runs every attention through the interface of transformers.
FAMILIES = frozenset({"t5", "mt5", "bart"})


class Buffers:
    """Memory for keys or values, [rows, heads, capacity, size], lent to the layers in turn.

    A layer that reorders writes into the spare buffer and leaves its own as the next spare, so
    all layers together need one more buffer than there are layers.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._spare: torch.Tensor | None = None

    def new(self, like: torch.Tensor) -> torch.Tensor:
        """An empty buffer for rows of the shape, type and device of ``like``."""
        rows, heads, _, size = like.shape
        return like.new_empty(rows, heads, self._capacity, size)

    def reordered(self, buffer: torch.Tensor, length: int, rows: torch.Tensor) -> torch.Tensor:
        """A buffer whose row i begins with the first ``length`` entries of row ``rows[i]``."""
        target = self.new(buffer) if self._spare is None else self._spare
        torch.index_select(buffer[:, :, :length], 0, rows, out=target[:, :, :length])
        self._spare = buffer
        return target


class BeamLayer(DynamicLayer):
    """Keys and values of one layer, which grow inside a buffer.

    Args:
        keys: Shared by the keys of all layers.
        values: The same for the values.
    """

    def __init__(self, keys: Buffers, values: Buffers) -> None:
        super().__init__()
        self._lenders = keys, values
        self._buffers: list[torch.Tensor] = []
        self._length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [rows, heads, new, size] to both; returns all, [rows, heads, length, size]."""
        states = key_states, value_states
        if not self._buffers:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [
                lender.new(own) for lender, own in zip(self._lenders, states, strict=True)
            ]
        start, self._length = self._length, self._length + key_states.shape[-2]
        for buffer, own in zip(self._buffers, states, strict=True):
            buffer[:, :, start : self._length] = own
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Give row i the past of row ``beam_idx[i]``."""
        self._buffers = [
            lender.reordered(buffer, self._length, beam_idx)
            for lender, buffer in zip(self._lenders, self._buffers, strict=True)
        ]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


class SharedKeysCache(EncoderDecoderCache):
    """Cache whose cross-attention part has one row per question, whatever the beams do."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Move the beams' own keys; ``beam_idx``, [questions * beams], stays within questions."""
        self.self_attention_cache.reorder_cache(beam_idx)


def read_source(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, max_new_tokens: int
) -> dict[str, Any]:
    """Encode the sources and project their keys and values.

    Args:
        model: Encoder-decoder loaded with ``attn_implementation=ATTENTION``.
        ids: Source tokens, [questions, length].
        mask: 1 for tokens, 0 for padding; the same shape.
        max_new_tokens: Most tokens that ``generate`` will write.

    Returns:
        Arguments of ``generate``: the encoder's output and a cache that holds the source only.
    """
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
    cache = SharedKeysCache(DynamicCache(), DynamicCache())
    start = torch.full((len(ids), 1), _start_id(model), device=ids.device)
    model(
        encoder_outputs=encoded,
        attention_mask=mask,
        decoder_input_ids=start,
        past_key_values=cache,
        use_cache=True,
    )
    # ``generate`` writes the start token anew, once for every beam.
    keys, values = Buffers(max_new_tokens + 1), Buffers(max_new_tokens + 1)
    layers = [BeamLayer(keys, values) for _ in cache.cross_attention_cache.layers]
    cache.self_attention_cache = Cache(layers=layers)
    return {"encoder_outputs": encoded, "past_key_values": cache}


def _start_id(model: Any) -> int:
    return int(model.generation_config.decoder_start_token_id)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query``, [rows * beams, heads, 1, size], to ``key``, [rows, heads, n, size].

    The beams of a row are treated as its queries. Where both have as many rows it is plain
    scaled-dot-product attention.
    """
    rows, beams = len(key), len(query) // len(key)
    if beams == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    heads, size = query.shape[1], query.shape[3]
    queries = query.view(rows, beams, heads, size).transpose(1, 2)
    mask = None if attention_mask is None else attention_mask[::beams]
    settings["position_bias"] = None  # cross-attention has none
    output, _ = sdpa_attention_forward(module, queries, key, value, mask, **settings)
    return output.reshape(rows * beams, 1, heads, size), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
