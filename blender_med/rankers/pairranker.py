"""PairRanker: a cross-encoder that reads a question with two candidates and says which is better.

Jiang, Ren and Lin 2023 (LLM-Blender), section 3. The layout of rows and weights is the one of
their checkpoints, so that PairRM loads (:mod:`blender_med.rankers.pairrm_checkpoint`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from blender_med.errors import ConfigError
from blender_med.models import (
    check_vocabulary,
    load_pretrained,
    load_tokenizer,
    quiet,
    torch_dtype,
)
from blender_med.rankers.base import Advance, Rankings
from blender_med.rankers.collate import (
    CANDIDATE,
    CANDIDATE_1,
    CANDIDATE_2,
    SOURCE,
    PairEncoder,
    add_prefixes,
    prefix_ids,
)
from blender_med.rankers.losses import PAIR_LOSSES, swap_consistency_loss
from blender_med.rankers.pair_config import (
    PairRankerConfig,
    check_lengths,
    default_lengths,
    most_positions,
)
from blender_med.rankers.weights import UNUSED_WEIGHTS, dropout_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blender_med.data.pairs import RankingExample


@dataclass
class PairOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: Scalar; None without labels.
        logits: [batch]; mean over the tasks of left - right, > 0: left is better.
        left: Scores of the first candidate, [batch, n_tasks].
        right: Scores of the second candidate, [batch, n_tasks].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None


class PrefixStates(NamedTuple):
    """Last hidden states at the prefixes of source and candidates, [batch, hidden] each."""

    source: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class PairRanker(PreTrainedModel):
    """The pairwise ranker: backbone, head, and the tokenizer it was trained with.

    Args:
        config: Configuration.
        tokenizer: With the four special tokens; needed for everything that starts from texts.
        backbone: Model in place of a new one with random weights.
    """

    config_class = PairRankerConfig
    base_model_prefix = "pretrained_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(
        self, config: PairRankerConfig, tokenizer: Any = None, backbone: nn.Module | None = None
    ) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.pretrained_model: Any = backbone or AutoModel.from_config(config.backbone_config)
        hidden = config.backbone_config.hidden_size
        self.head_layer = nn.Sequential(
            nn.Dropout(config.drop_out),
            nn.Linear(2 * hidden, hidden),
            nn.Tanh(),
            nn.Dropout(config.drop_out),
            nn.Linear(hidden, config.n_tasks),
        )
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        backbone: str | Path | None = None,
        *,
        source_maxlength: int | None = None,
        candidate_maxlength: int | None = None,
        dtype: str | torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        allow_pickle: bool = False,
        revision: str | None = None,
    ) -> PairRanker:
        """Load a checkpoint of this class or of PairRM, in either of its layouts.

        Args:
            path: Local folder, Hub id (``llm-blender/PairRM``, ``llm-blender/PairRM-hf``) or
                package source.
            backbone: The same for the backbone, in place of the one that the checkpoint names;
                only its configuration (and tokenizer, where the checkpoint has none) is read.
            source_maxlength: In place of the checkpoint's; 1224 where it names none.
            candidate_maxlength: In place of the checkpoint's; 412 where it names none.
            dtype: Of the weights; float32 whatever the checkpoint stores.
            device: Where to put the model; None: the CPU.
            allow_pickle: Read a ``pytorch_model.bin`` where there are no safetensors.
            revision: Of a Hub id.

        Raises:
            ConfigError: No such checkpoint, not a PairRanker, or a tokenizer that does not fit.
            DataError: Weights are missing, have another shape, or are pickled.
        """
        from blender_med.rankers.loading import placed
        from blender_med.rankers.pairrm_checkpoint import load

        place = placed(device)
        lengths = {"source_maxlength": source_maxlength, "candidate_maxlength": candidate_maxlength}
        model = load(path, backbone, lengths, allow_pickle=allow_pickle, revision=revision)
        dtype = torch_dtype(dtype) if isinstance(dtype, str) else dtype
        check_vocabulary(model.pretrained_model, model.tokenizer, path)
        return model.to(device=place, dtype=dtype).eval()

    @classmethod
    def from_weights(
        cls, config: PairRankerConfig, tokenizer: Any, weights: Mapping[str, torch.Tensor]
    ) -> tuple[PairRanker, dict[str, Any]]:
        """A ranker with these weights in float32, and the loading info of transformers."""
        with quiet():
            return super().from_pretrained(
                None, tokenizer, config=config, state_dict=weights, dtype=torch.float32,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip

    @classmethod
    def from_backbone(
        cls,
        path: str | Path,
        *,
        allow_pickle: bool = False,
        revision: str | None = None,
        backbone_dropout: float | None = None,
        **settings: Any,
    ) -> PairRanker:
        """A ranker to be trained: pretrained backbone, new head, special tokens added.

        Args:
            path: Local folder, Hub id or package source of the backbone.
            allow_pickle: Read a ``pytorch_model.bin`` where there are no safetensors.
            revision: Of a Hub id.
            backbone_dropout: In place of the backbone's own.
            settings: Fields of :class:`PairRankerConfig`. Lengths not given are PairRM's
                (1224/412) where the backbone has positions for them, else 128/128.

        Raises:
            ConfigError: No such backbone, it has no dropout, or lengths that do not fit it.
            DataError: Weights of the backbone are missing, have another shape or are pickled.
        """
        backbone = load_pretrained(
            AutoModel, path, dtype="float32", optional=UNUSED_WEIGHTS, revision=revision,
            allow_pickle=allow_pickle, **dropout_settings(path, revision, backbone_dropout),
        )  # fmt: skip
        tokenizer = load_tokenizer(path, revision)
        add_prefixes(tokenizer)
        backbone.resize_token_embeddings(len(tokenizer))
        source, candidate = default_lengths(backbone.config)
        lengths = {"source_maxlength": source, "candidate_maxlength": candidate}
        fields = lengths | settings | prefix_fields(tokenizer)
        # A copy: a new configuration resets the attention kernel of the configurations inside it.
        config = PairRankerConfig(backbone_config=backbone.config.to_dict(), **fields)
        check_lengths(config)
        return cls(config, tokenizer, backbone)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write configuration, safetensors and the tokenizer."""
        super().save_pretrained(save_directory, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the backbone reads the candidates in a decoder."""
        return bool(self.config.backbone_config.is_encoder_decoder)

    @cached_property
    def encoder(self) -> PairEncoder:
        """Turns texts into token rows.

        Raises:
            ConfigError: The model has no tokenizer, or the lengths exceed the backbone's positions.
        """
        if self.tokenizer is None:
            fix = "load it with from_pretrained, or pass tokenizer="
            raise ConfigError("this ranker has no tokenizer", key="tokenizer", fix=fix)
        check_lengths(self.config)
        return PairEncoder(
            self.tokenizer,
            self.config.source_maxlength,
            self.config.candidate_maxlength,
            positions=most_positions(self.config.backbone_config),
            is_encoder_decoder=self.is_encoder_decoder,
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> PairOutput:
        """Score both candidates of each row.

        Args:
            input_ids: [batch, length].
            attention_mask: [batch, length]; 1 for tokens, 0 for padding.
            decoder_input_ids: Both candidates, for an encoder-decoder, [batch, length].
            decoder_attention_mask: The same shape.
            labels: Metric values of left and right, [batch, 2, n_tasks].
            kwargs: Ignored; the Trainer passes what it likes.
        """
        states = self.prefix_states(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask
        )
        left, right = self.scores(states)
        loss = None if labels is None else self._loss(left, right, labels)
        return PairOutput(loss=loss, logits=(left - right).mean(dim=-1), left=left, right=right)

    def prefix_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
    ) -> PrefixStates:
        """Last hidden states at the prefixes; arguments of :meth:`forward`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if decoder_input_ids is None:
            states = sources = self.pretrained_model(**inputs).last_hidden_state
            ids = input_ids
        else:
            output = self.pretrained_model(
                **inputs, decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask, use_cache=False,
            )  # fmt: skip
            states, sources = output.last_hidden_state, output.encoder_last_hidden_state
            ids = decoder_input_ids
        return PrefixStates(
            _at(sources, input_ids, self.config.source_prefix_id),
            _at(states, ids, self.config.cand1_prefix_id),
            _at(states, ids, self.config.cand2_prefix_id),
        )

    def scores(self, states: PrefixStates) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of both candidates, [batch, n_tasks] each; higher is better."""
        dtype: torch.dtype = next(self.head_layer.parameters()).dtype
        source, first, second = (part.to(dtype) for part in states)
        left = self.head_layer(torch.cat([source, first], dim=-1))
        return left, self.head_layer(torch.cat([source, second], dim=-1))

    def _loss(self, left: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        left, right = left.float(), right.float()
        loss = PAIR_LOSSES[self.config.loss_type](left, right, labels[:, 0], labels[:, 1])
        if not self.config.swap_consistency:
            return loss
        logits, swapped = (left - right).mean(dim=-1).chunk(2)
        return loss + self.config.swap_consistency * swap_consistency_loss(logits, swapped)

    def training_batch(
        self, examples: Sequence[RankingExample], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Arguments of :meth:`forward` for pairs that are drawn from ``examples``.

        See :func:`blender_med.rankers.pair_training.training_batch`.
        """
        from blender_med.rankers.pair_training import training_batch

        return training_batch(examples, self.encoder, self.config, rng)

    def pairwise_logits(
        self, source: str, candidates: Sequence[str], **settings: Any
    ) -> NDArray[np.float32]:
        """Logits of all ordered pairs, [n, n]; entry (i, j) > 0: i, standing first, beats j.

        The diagonal is 0. ``settings`` as in :meth:`rank`.
        """
        logits = self.rank([source], [candidates], **settings)[0].pairwise_logits
        assert logits is not None
        return logits

    def rank(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        strategy: str = "full",
        aggregation: str = "max_logits",
        top_k: int = 3,
        batch_tokens: int = 4096,
        dtype: str | None = None,
        advance: Advance | None = None,
    ) -> Rankings:
        """Order the candidates of each question.

        Equal candidates of a question are compared once. A candidate alone has rank 1 without a
        comparison.

        Args:
            sources: Questions (instruction and input joined), [n].
            candidates: Candidates of each question; any number from 1.
            strategy: ``full`` (all n (n - 1) ordered pairs), ``bubble`` (one pass, n - 1 pairs in
                both orders), ``bubble_worst`` (the same for the worst candidate), ``one_order``
                (of two candidates only as they stand) or ``adaptive`` (as many as settle the
                best and the set of the first ``top_k``).
            aggregation: ``max_logits``, ``max_wins`` or ``bradley_terry``.
            top_k: Places that ``adaptive`` settles.
            batch_tokens: Most tokens of a forward pass; speed only.
            dtype: Of the computation, such as ``bfloat16``; None: that of the weights. What is
                prepared for it is kept until the weights change.
            advance: Called with the number of questions done.

        Returns:
            One entry per question, in order.

        Raises:
            DataError: A question has no candidate, or a text is no string.
            ConfigError: Unknown strategy, aggregation or dtype.
        """
        from blender_med.rankers.inference import rank_questions

        return rank_questions(
            self, sources, candidates, strategy=strategy, aggregation=aggregation, top_k=top_k,
            batch_tokens=batch_tokens, dtype=dtype, advance=advance,
        )  # fmt: skip


def prefix_fields(tokenizer: Any) -> dict[str, int]:
    """The configuration's fields for the ids of the special tokens."""
    ids = prefix_ids(tokenizer)
    return {
        "source_prefix_id": ids[SOURCE],
        "cand_prefix_id": ids[CANDIDATE],
        "cand1_prefix_id": ids[CANDIDATE_1],
        "cand2_prefix_id": ids[CANDIDATE_2],
    }


def _at(states: torch.Tensor, ids: torch.Tensor, token: int) -> torch.Tensor:
    """States of the first place of ``token`` in each row, [batch, hidden]."""
    places = (ids == token).int().argmax(dim=1)
    return states[torch.arange(len(ids), device=ids.device), places]
