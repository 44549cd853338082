"""Logits of batches of token rows, on the fastest way that the backbone allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from blender_med.errors import DataError
from blender_med.packed import pack_linear_layers
from blender_med.rankers.collate import Pair, collate
from blender_med.rankers.encoders import PrefixEncoder, is_supported
from blender_med.rankers.pairranker import PairRanker, PrefixStates

States = Callable[[Sequence[Pair]], PrefixStates]

_PREPARED: WeakKeyDictionary[PairRanker, tuple[Any, PairScorer]] = WeakKeyDictionary()


class PairScorer:
    """Runs a pairwise ranker without gradients; build it with :func:`prepared`.

    Args:
        model: In evaluation mode; its layers' weights are copied into the layout of the
            computation.
        dtype: Number format of the computation; the head keeps that of the weights.
    """

    def __init__(self, model: PairRanker, dtype: torch.dtype) -> None:
        # A copy that shares all modules: what is kept for a model must not keep it alive.
        self._model = copy.copy(model)
        config = model.config.backbone_config
        self._states = (
            _encoder(model, dtype) if is_supported(config) else _transformers(model, dtype)
        )

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Logits of the pairs, run as one batch, [pairs]; > 0: left is better.

        Raises:
            DataError: A logit is not finite.
        """
        left, right = self._model.scores(self._states(pairs))
        logits = (left - right).float().mean(dim=-1).cpu().numpy()
        if not np.isfinite(logits).all():
            fix = "load it in float32, or train it anew with a lower training.learning_rate"
            raise DataError("a logit of the ranker is not finite", fix=fix)
        return logits


def prepared(model: PairRanker, dtype: torch.dtype) -> PairScorer:
    """The scorer of a model, made anew only where its weights have changed or moved."""
    state = (dtype, *((weight.data_ptr(), weight._version) for weight in model.parameters()))
    kept = _PREPARED.get(model)
    if kept is None or kept[0] != state:
        kept = _PREPARED[model] = (state, PairScorer(model, dtype))
    return kept[1]


def _encoder(model: PairRanker, dtype: torch.dtype) -> States:
    encoder = PrefixEncoder(model.pretrained_model, model.encoder.opening, dtype)
    return lambda pairs: PrefixStates(*encoder(pairs).unbind(1))


def _transformers(model: PairRanker, dtype: torch.dtype) -> States:
    runner = copy.copy(model)
    runner._modules = dict(model._modules)
    runner.pretrained_model = pack_linear_layers(copy.deepcopy(model.pretrained_model).to(dtype))
    pad, is_encoder_decoder = model.encoder.pad_id, model.is_encoder_decoder

    def states(pairs: Sequence[Pair]) -> PrefixStates:
        batch = collate(pairs, pad, is_encoder_decoder=is_encoder_decoder)
        return runner.prefix_states(**{name: t.to(runner.device) for name, t in batch.items()})

    return states
