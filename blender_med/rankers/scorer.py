"""Logits of batches of token rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from blender_med.rankers.collate import Pair, collate
from blender_med.rankers.pairranker import PairRanker


class PairScorer:
    """Runs a pairwise ranker."""

    def __init__(self, model: PairRanker) -> None:
        self._model = model.eval()
        self._pad = model.tokenizer.pad_token_id

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Logits of the pairs, run as one batch, [pairs]; > 0: left is better."""
        batch = collate(pairs, self._pad, is_encoder_decoder=self._model.is_encoder_decoder)
        tensors = {name: tensor.to(self._model.device) for name, tensor in batch.items()}
        return self._model(**tensors).logits.float().cpu().numpy()
