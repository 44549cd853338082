"""Pointwise reward models: a sequence classifier with one output is the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from blender_med.errors import ConfigError
from blender_med.rankers.encoding import (
    PairRows,
    Row,
    bare_ids,
    check_positions,
    check_rooms,
    pair_inputs,
    row_scores,
    special_tokens,
)
from blender_med.rankers.loading import load_model
from blender_med.rankers.pointwise import PointwiseRanker, Scored
from blender_med.rankers.text import neutralise

Form = Literal["auto", "chat", "pair"]


@dataclass(slots=True)
class RewardConfig:
    """How question and candidate become a row.

    Attributes:
        form: ``chat`` renders the tokenizer's chat template, ``pair`` gives the tokenizer two
            texts, ``auto`` takes ``chat`` where there is a template.
        source_maxlength: Most tokens of the question.
        candidate_maxlength: Most tokens of a candidate.
    """

    form: Form = "auto"
    source_maxlength: int = 224
    candidate_maxlength: int = 256


class RewardRanker(PointwiseRanker):
    """Scores question and candidate as a chat of two turns or as a pair of texts.

    Args:
        model: Sequence classifier with one output; see :meth:`from_pretrained`.
        tokenizer: Its tokenizer.
        config: Form and lengths.

    Raises:
        ConfigError: The model has several outputs.
    """

    def __init__(self, model: Any, tokenizer: Any, config: RewardConfig | None = None) -> None:
        if model.config.num_labels != 1:
            fix = "choose a reward model: AutoModelForSequenceClassification with num_labels 1"
            problem = "a reward model has one output"
            raise ConfigError(problem, key="model", value=model.config.num_labels, fix=fix)
        self._model, self._tokenizer = model, tokenizer
        self.config = config or RewardConfig()
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        form: Form = "auto",
        source_maxlength: int = 224,
        candidate_maxlength: int = 256,
        dtype: str | torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> RewardRanker:
        """Load a reward model, such as ``OpenAssistant/reward-model-deberta-v3-large-v2``.

        Args:
            path: Local folder, Hub id or package source.
            form: See :class:`RewardConfig`.
            source_maxlength: See :class:`RewardConfig`.
            candidate_maxlength: See :class:`RewardConfig`.
            dtype: Of the weights, whatever the checkpoint stores.
            device: Where to put the model; None: CUDA where there is one.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: There is no such model, it has several outputs or too few positions, or
                its tokenizer has no chat template for ``form`` chat.
            DataError: Weights are missing, such as the head, or pickled.
        """
        from transformers import AutoModelForSequenceClassification

        loaded = load_model(
            AutoModelForSequenceClassification, path, dtype, device, revision,
            allow_pickle=allow_pickle,
        )  # fmt: skip
        ranker = cls(*loaded, RewardConfig(form, source_maxlength, candidate_maxlength))
        ranker._rows  # noqa: B018  a form or length that does not fit is an error of loading
        return ranker

    @cached_property
    def _rows(self) -> PairRows | ChatRows:
        lengths = self.config.source_maxlength, self.config.candidate_maxlength
        is_chat = self.config.form == "chat"
        is_chat = is_chat or (self.config.form == "auto" and self._tokenizer.chat_template)
        rows = (ChatRows if is_chat else PairRows)(self._tokenizer, *lengths)
        check_positions(self._model.config, rows.longest, "candidate_maxlength")
        return rows

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> list[Scored]:
        """Reward of each candidate."""
        # Without a padding token the model cannot tell where a row ends: one row at a time.
        budget = 1 if self._model.config.pad_token_id is None else batch_tokens
        return row_scores(self._rows(sources, groups), self._rewards, budget)

    @torch.inference_mode()
    def _rewards(self, rows: Sequence[Row]) -> list[float]:
        pad = self._model.config.pad_token_id or 0
        segments = self._rows.has_segments
        tensors = pair_inputs(rows, pad, self._model.device, has_segments=segments)
        return self._model(**tensors).logits[:, 0].double().tolist()


class ChatRows:
    """Turns a source with a candidate into the row of a chat's user and assistant turn.

    Args:
        tokenizer: With a chat template.
        source_maxlength: Most tokens of the source's text.
        candidate_maxlength: Most tokens of the candidate's text.

    Raises:
        ConfigError: The tokenizer has no chat template, or a length leaves no room for a text.
    """

    has_segments = False

    def __init__(self, tokenizer: Any, source_maxlength: int, candidate_maxlength: int) -> None:
        if not tokenizer.chat_template:
            fix = "use form: pair, or give the tokenizer its template"
            raise ConfigError(
                "the tokenizer has no chat template", key="form", value="chat", fix=fix
            )
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        self._limits = source_maxlength, candidate_maxlength
        check_rooms(*self._limits)

    @property
    def longest(self) -> int:
        """Most tokens that a row can have."""
        return sum(self._limits) + len(self._row("", "").ids)

    def __call__(self, sources: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[Row]]:
        """Rows of each source's candidates; special tokens inside texts become spaces."""
        cut = self._cut(sources, self._limits[0])
        return [
            [self._row(source, text) for text in self._cut(group, self._limits[1])]
            for source, group in zip(cut, groups, strict=True)
        ]

    def _row(self, source: str, candidate: str) -> Row:
        turns = [
            {"role": "user", "content": source},
            {"role": "assistant", "content": candidate},
        ]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return Row(ids, range(len(ids)), len(ids))

    def _cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Texts of at most ``limit`` tokens, without special tokens."""
        rows = bare_ids(self._tokenizer, texts, self._special)
        clean = [neutralise(text, self._special) for text in texts]
        return [
            text if len(ids) <= limit else self._tokenizer.decode(ids[:limit])
            for text, ids in zip(clean, rows, strict=True)
        ]
