"""SummaReranker: reads the question with one candidate and says how likely it is the best.

Ravaut, Joty and Chen 2022, as far as LLM-Blender's baseline goes: the first token's state goes
through a multi-task mixture of experts with one task for each label metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from blender_med.rankers.backbone import BackboneConfig, BackboneRanker
from blender_med.rankers.encoding import (
    PairRows,
    Row,
    check_positions,
    pad_id,
    pair_inputs,
    row_scores,
)
from blender_med.rankers.losses import best_by_metric
from blender_med.rankers.mixture import MultiTaskMixture
from blender_med.rankers.pointwise import Scored

if TYPE_CHECKING:
    from blender_med.data.pairs import RankingExample


class SummaRerankerConfig(BackboneConfig):
    """Configuration of SummaReranker.

    Attributes:
        n_tasks: Label metrics; each is a task.
        num_pos: Best candidates of a question that a training step takes.
        num_neg: Worst candidates that it takes; a question of fewer candidates is taken whole.
        balance_weight: Weight of the loss that asks the gates to use the experts evenly.
    """

    model_type = "summareranker"

    n_tasks: int = 1
    num_pos: int = 1
    num_neg: int = 1
    balance_weight: float = 1e-2


@dataclass
class SummaRerankerOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: Scalar; None without labels.
        logits: Log-odds that a candidate is the best, [candidates, n_tasks].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SummaReranker(BackboneRanker):
    """The cross-encoder of a question and one candidate."""

    config_class = SummaRerankerConfig

    def __init__(
        self, config: SummaRerankerConfig, tokenizer: Any = None, backbone: Any = None
    ) -> None:
        super().__init__(config, tokenizer, backbone)
        self.mixture = MultiTaskMixture(self.backbone.config.hidden_size, config.n_tasks)
        self.post_init()

    @cached_property
    def _rows(self) -> PairRows:
        config = self.config
        rows = PairRows(self.tokenizer, config.source_maxlength, config.candidate_maxlength)
        check_positions(self.backbone.config, rows.longest, "candidate_maxlength")
        return rows

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SummaRerankerOutput:
        """Score candidates.

        Args:
            input_ids: Source and candidate, [candidates, length].
            attention_mask: 1 for tokens, 0 for padding; the same shape.
            token_type_ids: 1 for the candidate's segment; the same shape.
            labels: 1 where the candidate is the best of its question, [candidates, n_tasks].
            kwargs: Ignored; the Trainer passes what it likes.
        """
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **segments)
        logits, unevenness = self.mixture(output.last_hidden_state[:, 0])
        if labels is None:
            return SummaRerankerOutput(logits=logits)
        loss = binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return SummaRerankerOutput(loss + self.config.balance_weight * unevenness, logits)

    def training_batch(
        self, examples: Sequence[RankingExample], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """The best and the worst candidates of the examples, with their targets.

        Args:
            examples: Questions with candidates and labels; n may differ.
            rng: Not used: nothing is drawn.
        """
        del rng
        chosen = [self._chosen(example.labels) for example in examples]
        texts = [[e.candidates[i] for i in own] for e, own in zip(examples, chosen, strict=True)]
        groups = self._rows([example.source for example in examples], texts)
        targets = [best_by_metric(e.labels)[own] for e, own in zip(examples, chosen, strict=True)]
        labels = torch.tensor(np.concatenate(targets), dtype=torch.float32)
        rows = [row for group in groups for row in group]
        return self._tensors(rows, torch.device("cpu")) | {"labels": labels}

    def _chosen(self, labels: NDArray[np.float64]) -> list[int]:
        """Positions of the best and the worst candidates by their mean label, in their order."""
        order = np.argsort(-labels.mean(axis=1), kind="stable").tolist()
        worst = order[max(self.config.num_pos, len(order) - self.config.num_neg) :]
        return sorted([*order[: self.config.num_pos], *worst])

    def _tensors(self, rows: Sequence[Row], device: torch.device) -> dict[str, torch.Tensor]:
        pad = pad_id(self.backbone.config)
        return pair_inputs(rows, pad, device, has_segments=self._rows.has_segments)

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> list[Scored]:
        """sigmoid(mean logit over the tasks) of each candidate, 0 to 1."""
        return row_scores(self._rows(sources, groups), self._probabilities, batch_tokens)

    def _probabilities(self, rows: Sequence[Row]) -> list[float]:
        logits = self(**self._tensors(rows, self.device)).logits
        return logits.double().mean(dim=-1).sigmoid().tolist()


AutoConfig.register("summareranker", SummaRerankerConfig)
AutoModel.register(SummaRerankerConfig, SummaReranker)
