"""SimCLS: question and candidate are encoded apart, and their cosine is the score.

Liu and Liu 2021 (SimCLS), trained as in LLM-Blender with a margin that grows with the distance
of two candidates in the order of their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from blender_med.rankers.backbone import BackboneConfig, BackboneRanker
from blender_med.rankers.encoding import (
    Pooling,
    TextRows,
    check_positions,
    cosines,
    inputs,
    pad_id,
    pooled,
    unit_vectors,
)
from blender_med.rankers.losses import margin_ranking
from blender_med.rankers.pointwise import Scored

if TYPE_CHECKING:
    from blender_med.data.pairs import RankingExample


class SimCLSConfig(BackboneConfig):
    """Configuration of SimCLS.

    Attributes:
        pooling: ``cls`` takes the first token's state, ``mean`` the mean of all; ``mean`` suits
            the encoders of sentence-transformers.
    """

    model_type = "simcls"

    pooling: Pooling = "cls"


@dataclass
class SimCLSOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: Scalar; None without labels.
        logits: Cosine of each candidate with its source, [candidates].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SimCLS(BackboneRanker):
    """The dual encoder; one encoder reads sources and candidates."""

    config_class = SimCLSConfig

    def __init__(self, config: SimCLSConfig, tokenizer: Any = None, backbone: Any = None) -> None:
        super().__init__(config, tokenizer, backbone)
        self.post_init()

    @cached_property
    def _sources(self) -> TextRows:
        return self._rows("source_maxlength")

    @cached_property
    def _candidates(self) -> TextRows:
        return self._rows("candidate_maxlength")

    def _rows(self, key: str) -> TextRows:
        length = getattr(self.config, key)
        check_positions(self.backbone.config, length, key)
        return TextRows(self.tokenizer, length)

    def forward(
        self,
        source_ids: torch.Tensor,
        source_mask: torch.Tensor,
        candidate_ids: torch.Tensor,
        candidate_mask: torch.Tensor,
        owners: torch.Tensor,
        labels: torch.Tensor | None = None,
        reference_ids: torch.Tensor | None = None,
        reference_mask: torch.Tensor | None = None,
        reference_owners: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SimCLSOutput:
        """Score the candidates of some sources.

        Args:
            source_ids: [sources, length].
            source_mask: 1 for tokens, 0 for padding; the same shape.
            candidate_ids: Candidates of all sources, one after the other, [candidates, length].
            candidate_mask: The same shape.
            owners: Source of each candidate, [candidates].
            labels: Metric values, [candidates, n_tasks]; their sum over the tasks orders.
            reference_ids: Reference answers of those sources that have one, [references, length].
            reference_mask: The same shape.
            reference_owners: Source of each reference, [references].
            kwargs: Ignored; the Trainer passes what it likes.
        """
        sources = self._encoded(source_ids, source_mask)
        candidates = self._encoded(candidate_ids, candidate_mask)
        scores = (sources[owners] * candidates).sum(dim=-1)
        if labels is None:
            return SimCLSOutput(logits=scores)
        references: dict[int, torch.Tensor] = {}
        if (
            reference_ids is not None
            and reference_mask is not None
            and reference_owners is not None
        ):
            vectors = self._encoded(reference_ids, reference_mask)
            values = (sources[reference_owners] * vectors).sum(dim=-1)
            references = dict(zip(reference_owners.tolist(), values, strict=True))
        losses = [
            margin_ranking(scores[own], labels[own].sum(dim=-1), references.get(i))
            for i in range(len(sources))
            if (own := owners == i).any()
        ]
        return SimCLSOutput(loss=torch.stack(losses).mean(), logits=scores)

    def _encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return pooled(states, mask, self.config.pooling)

    def training_batch(
        self, examples: Sequence[RankingExample], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Tokens and labels of all candidates of the examples, as :meth:`forward` takes them.

        Args:
            examples: Questions with candidates and labels; n may differ.
            rng: Not used: nothing is drawn.
        """
        del rng
        sizes = torch.tensor([len(example.candidates) for example in examples])
        known = [(i, e.reference) for i, e in enumerate(examples) if e.reference is not None]
        texts = [text for example in examples for text in example.candidates]
        labels = np.concatenate([example.labels for example in examples])
        batch = {
            **self._tensors("source", self._sources([e.source for e in examples])),
            **self._tensors("candidate", self._candidates(texts)),
            "owners": torch.repeat_interleave(sizes),
            "labels": torch.tensor(labels, dtype=torch.float32),
        }
        if known:
            batch |= self._tensors("reference", self._candidates([text for _, text in known]))
            batch["reference_owners"] = torch.tensor([owner for owner, _ in known])
        return batch

    def _tensors(self, name: str, rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        tensors = inputs(rows, pad_id(self.backbone.config), torch.device("cpu"))
        return {f"{name}_ids": tensors["input_ids"], f"{name}_mask": tensors["attention_mask"]}

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> list[Scored]:
        """Cosine of each candidate with its source, -1 to 1."""
        embed = partial(
            unit_vectors, self.backbone, pooling=self.config.pooling, batch_tokens=batch_tokens
        )
        return cosines(self._sources(sources), [self._candidates(group) for group in groups], embed)


AutoConfig.register("simcls", SimCLSConfig)
AutoModel.register(SimCLSConfig, SimCLS)
