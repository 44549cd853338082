"""MLM-scoring: how probable a masked language model finds a candidate after the question.

Salazar et al. 2020: the pseudo-log-likelihood masks one token at a time and sums the
log-probabilities of what stood there. Here it is divided by the number of tokens, so that long
answers are not worse for being long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from blender_med.batching import token_budget_batches
from blender_med.errors import ConfigError
from blender_med.rankers.encoding import PairRows, Row, check_positions, pad_id, pair_inputs
from blender_med.rankers.loading import load_model
from blender_med.rankers.pointwise import PointwiseRanker, Scored


class MLMScorer(PointwiseRanker):
    """Pseudo-log-likelihood per token of a candidate given its question, in nats, <= 0.

    A candidate without a token scores like a uniform guess, -log(vocabulary).

    Args:
        model: A masked language model, loaded; see :meth:`from_pretrained`.
        tokenizer: Its tokenizer.
        source_maxlength: Most tokens of the question.
        candidate_maxlength: Most tokens of a candidate.

    Raises:
        ConfigError: The lengths do not fit the model, or the tokenizer has no mask.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        source_maxlength: int = 128,
        candidate_maxlength: int = 128,
    ) -> None:
        self._model = model
        self._rows = PairRows(tokenizer, source_maxlength, candidate_maxlength)
        check_positions(model.config, self._rows.longest, "candidate_maxlength")
        if tokenizer.mask_token_id is None:
            fix = "choose a masked language model such as BERT or RoBERTa"
            raise ConfigError("the tokenizer has no mask", key="model", fix=fix)
        self._mask_id = int(tokenizer.mask_token_id)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        source_maxlength: int = 128,
        candidate_maxlength: int = 128,
        dtype: str | torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> MLMScorer:
        """Load a masked language model.

        Args:
            path: Local folder, Hub id or package source.
            source_maxlength: See the class.
            candidate_maxlength: See the class.
            dtype: Of the weights, whatever the checkpoint stores.
            device: Where to put the model; None: CUDA where there is one.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: There is no such model, or see the class.
            DataError: Weights are missing, such as the head that predicts tokens, or pickled.
        """
        from transformers import AutoModelForMaskedLM

        loaded = load_model(
            AutoModelForMaskedLM, path, dtype, device, revision, allow_pickle=allow_pickle
        )
        return cls(*loaded, source_maxlength, candidate_maxlength)

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> list[Scored]:
        """Mean log-probability of each candidate's tokens; one row is read per token."""
        groups_of_rows = self._rows(sources, groups)
        rows = [row for group in groups_of_rows for row in group]
        means = iter(self._means(rows, batch_tokens))
        return [
            Scored(
                [next(means) for _ in group],
                sum(len(row.ids) * len(row.candidate) for row in group),
            )
            for group in groups_of_rows
        ]

    @torch.inference_mode()
    def _means(self, rows: Sequence[Row], batch_tokens: int) -> list[float]:
        """Mean log-probability of each row's candidate tokens, each masked in turn."""
        jobs = [(i, place) for i, row in enumerate(rows) for place in row.candidate]
        totals = [0.0] * len(rows)
        for batch in token_budget_batches([len(rows[i].ids) for i, _ in jobs], batch_tokens):
            own = [(rows[jobs[j][0]], jobs[j][1]) for j in batch]
            for j, value in zip(batch, self._log_probs(own), strict=True):
                totals[jobs[j][0]] += value
        guess = -math.log(self._model.config.vocab_size)
        counts = [len(row.candidate) for row in rows]
        return [t / n if n else guess for t, n in zip(totals, counts, strict=True)]

    def _log_probs(self, masked: Sequence[tuple[Row, int]]) -> list[float]:
        """Log-probability of the token at a place of a row when it is masked."""
        device = self._model.device
        rows, pad = [row for row, _ in masked], pad_id(self._model.config)
        tensors = pair_inputs(rows, pad, device, has_segments=self._rows.has_segments)
        places = torch.tensor([place for _, place in masked], device=device)
        own = torch.arange(len(rows), device=device)
        targets = tensors["input_ids"][own, places]
        tensors["input_ids"][own, places] = self._mask_id
        with _head_sees(self._model, places):
            logits = self._model(**tensors).logits[:, 0]
        return logits.float().log_softmax(dim=-1)[own, targets].double().tolist()


@contextmanager
def _head_sees(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Show the output layer one place of each row: the logits of all would fill the memory."""

    def keep(module: Any, args: Any, output: Any) -> Any:
        states = output["last_hidden_state"]
        own = torch.arange(len(states), device=states.device)
        output["last_hidden_state"] = states[own, places][:, None]
        return output

    hook = model.base_model.register_forward_hook(keep)
    try:
        yield
    finally:
        hook.remove()
