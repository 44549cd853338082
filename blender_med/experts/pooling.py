"""From the hidden states of a text's tokens to those that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blender_med.experts.config import StateConfig

if TYPE_CHECKING:
    import torch


def pooled(states: torch.Tensor, config: StateConfig) -> torch.Tensor:
    """The states that are kept of one text, [slots, width].

    ``slots`` averages consecutive tokens: slot i those from floor(i T / M) to before
    ceil((i + 1) T / M), so that texts of any number of tokens T, in the tokens of any
    tokenizer, come to M vectors; with T below M a token fills several.

    Args:
        states: Of all tokens, at least one, [tokens, width].
        config: How they are pooled.
    """
    from torch.nn.functional import adaptive_avg_pool1d

    if config.pooling == "last":
        return states[-1:]
    if config.pooling == "mean":
        return states.mean(dim=0, keepdim=True)
    return adaptive_avg_pool1d(states.T[None], config.slots)[0].T
