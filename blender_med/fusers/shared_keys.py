"""Beam search whose beams share the keys and values of the source they read.

The beams of a question attend to the same encoder states. ``generate`` repeats these states for
every beam, projects each copy to keys and values, and copies them whenever the beams change
places. Here they are projected once per question and never move: with four beams that is a
quarter of the memory read in cross-attention and none of its copies.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_shared_keys"
# Families whose code runs every attention through the interface of transformers.
FAMILIES = frozenset({"t5", "mt5", "bart"})


class SharedKeysCache(EncoderDecoderCache):
    """Cache whose cross-attention part has one row per question, whatever the beams do."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Move the beams' own keys; ``beam_idx``, [questions * beams], stays within questions."""
        self.self_attention_cache.reorder_cache(beam_idx)


def read_source(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """Encode the sources and project their keys and values.

    Args:
        model: Encoder-decoder loaded with ``attn_implementation=ATTENTION``.
        ids: Source tokens, [questions, length].
        mask: 1 for tokens, 0 for padding; the same shape.

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
    cache.self_attention_cache = DynamicCache()  # ``generate`` writes the start token anew
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
