"""EmbeddingFuser: one answer from the hidden states of several experts.

Each expert's states are projected into one width, weighted by a gate and combined. The fused
slots score the options of a question, or are the memory of a T5 decoder that writes an answer.
The experts themselves are no part of the model: their states are data, so they stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from blender_med.errors import ConfigError, DataError
from blender_med.fusers.base import Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding_checkpoint import (
    EmbeddingFuserConfig,
    check_experts,
    checked_settings,
)
from blender_med.fusers.embedding_config import (
    EmbeddingFuserSettings,
    GenerateHeadConfig,
    NewDecoderConfig,
)
from blender_med.fusers.fusion_layers import (
    ChoiceHead,
    Combination,
    ExpertProjection,
    check_finite,
    check_owners,
    check_states,
)
from blender_med.fusers.gate import Gating, build_gate
from blender_med.fusers.memory_decoder import build_decoder, decode, load_decoder, new_decoder
from blender_med.models import load_config, load_pretrained, load_tokenizer
from blender_med.registry import suggestion

States = Mapping[str, torch.Tensor]


@dataclass
class EmbeddingFuserOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: Of the head and of the gate, scalar; None without labels.
        gate_loss: The gate's part of it, scalar.
        logits: Head ``choice``: a score per option, -inf where a question has fewer,
            [questions, most options]. Head ``generate``: of the next token,
            [questions, length, vocabulary]; None without labels.
        weights: Of the experts, [questions, n].
    """

    loss: torch.Tensor | None = None
    gate_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    weights: torch.Tensor | None = None


class WrittenAnswers(NamedTuple):
    """Answers to some questions, and the weights of the experts, [questions, n]."""

    generations: list[Generation]
    weights: torch.Tensor


class EmbeddingFuser(PreTrainedModel):
    """The fuser.

    States of a batch are a mapping from the name of an expert to [rows, slots, its width]. A row
    is an option of a question (head ``choice``) or a question (head ``generate``); ``owners``
    says to which question of the batch it belongs. An expert that the gate chooses for no
    question may be left out, and states of an expert are not read where it is not chosen.

    Args:
        config: Configuration.
        decoder: Decoder in place of a new one with random weights.
        tokenizer: Of the decoder.
    """

    config_class = EmbeddingFuserConfig
    _supports_sdpa = True

    def __init__(
        self, config: EmbeddingFuserConfig, decoder: Any = None, tokenizer: Any = None
    ) -> None:
        super().__init__(config)
        settings = checked_settings(config)
        n, width = len(config.experts), config.width
        reads_question = config.gate_input == "question"
        gate_width = (config.question_width or 0) if reads_question else n * width
        self.projections = nn.ModuleList(ExpertProjection(w, width) for w in config.widths)
        self.gate = build_gate(settings.gate, gate_width, n)
        self.combination = Combination(
            config.mode, n, config.slots, width,
            layers=config.layers, heads=config.attention_heads, dropout=config.dropout,
        )  # fmt: skip
        self._tokenizer = tokenizer
        if config.decoder_config is None:
            self.choice = ChoiceHead(width, config.dropout)
        else:
            decoder_config: Any = config.decoder_config
            self.memory = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, decoder_config.d_model)
            )
            self.decoder = build_decoder(decoder_config, decoder, config.tuning, config.lora_rank)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Keep the layers' own start."""

    @classmethod
    def build(
        cls,
        settings: EmbeddingFuserSettings,
        experts: Mapping[str, int],
        *,
        slots: int = 1,
        question_width: int | None = None,
        texts: Iterable[str] = (),
    ) -> Self:
        """A fuser to be trained.

        Args:
            settings: Of the recipe.
            experts: Width of the states of each expert by its name.
            slots: Vectors per text and expert.
            question_width: Of the embedding that the gate reads, where it reads one.
            texts: That a new decoder's tokenizer is learned from.

        Raises:
            ConfigError: No expert, the gate chooses more than there are, or the decoder is no T5
                or not to be found.
            DataError: The decoder's weights are missing or damaged.
        """
        fields = settings.model_dump(mode="json", exclude={"head"})
        decoder = tokenizer = None
        if isinstance(settings.head, GenerateHeadConfig):
            own = settings.head.decoder
            decoder, tokenizer = (
                new_decoder(own, texts)
                if isinstance(own, NewDecoderConfig)
                else load_decoder(own, settings.head.revision)
            )
            fields |= {"decoder_config": decoder.config.to_dict()}
            fields |= {"tuning": settings.head.tuning, "lora_rank": settings.head.lora_rank}
        config = EmbeddingFuserConfig(
            experts=list(experts), widths=list(experts.values()), slots=slots,
            question_width=question_width, **fields,
        )  # fmt: skip
        return cls(config, decoder, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        experts: Mapping[str, int] | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a trained fuser in float32, in evaluation mode.

        Args:
            path: Local folder, Hub id or package source that :meth:`save_pretrained` wrote.
            experts: Width of the states of each expert that it will be given; checked.
            device: Where to put it; None: the CPU.
            revision: Of a Hub id.

        Raises:
            ConfigError: There is no such checkpoint, it is of another kind, or was trained with
                other experts or widths.
            DataError: Weights are missing, have another shape, or are pickled.
        """
        config = load_config(path, revision)
        if not isinstance(config, EmbeddingFuserConfig):
            problem = f"a checkpoint of type {config.model_type}, not an embedding fuser"
            fix = "name the folder of an embedding fuser, made by stage train-gate"
            raise ConfigError(problem, key="path", value=str(path), fix=fix)
        if experts is not None:
            check_experts(config, experts)
        model = load_pretrained(super(), path, dtype="float32", revision=revision)
        if config.decoder_config is not None:
            model._tokenizer = load_tokenizer(path, revision)
        return model.to(device) if device is not None else model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write configuration, safetensors and the decoder's tokenizer."""
        super().save_pretrained(save_directory, **kwargs)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(save_directory)

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the decoder; None with the head ``choice``."""
        return self._tokenizer

    def standardise(self, states: States) -> None:
        """Take mean and deviation of every feature from training states; done before training."""
        projections: list[Any] = list(self.projections)
        for name, projection in zip(self.config.experts, projections, strict=True):
            projection.standardise(self._own(states, name, len(states[name])))

    def forward(
        self,
        states: States,
        owners: torch.Tensor | None = None,
        questions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> EmbeddingFuserOutput:
        """Score options, or predict the tokens of an answer from those before.

        Args:
            states: By expert, [rows, slots, width].
            owners: Question of each row, ascending from 0, [rows]; None: one row each.
            questions: Embeddings for the gate, [questions, question_width]; None where it reads
                the experts.
            labels: Right option of each question, [questions], or tokens of its answer,
                [questions, length]; -100 is left out.
            kwargs: Ignored; the Trainer passes what it likes.

        Raises:
            DataError: States of a chosen expert are missing, of another shape, or not finite.
        """
        fused, owners, gating = self._fused(states, owners, questions)
        if self.config.decoder_config is None:
            logits = self.choice(fused, owners)
            loss = None if labels is None else cross_entropy(logits, labels)
        else:
            logits, loss = self._decoded(fused, labels)
        total = None if loss is None else loss + gating.loss
        return EmbeddingFuserOutput(total, gating.loss, logits, gating.weights)

    def _decoded(
        self, fused: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if labels is None:
            return None, None
        output = self.decoder(encoder_outputs=(self.memory(fused),), labels=labels)
        return output.logits, output.loss

    def route(self, questions: torch.Tensor) -> Gating:
        """Which experts each question needs, before any of them has run.

        Args:
            questions: Embeddings, [questions, question_width].

        Raises:
            ConfigError: The gate reads the experts themselves.
        """
        if self.config.gate_input != "question":
            fix = "train one with gate_input: question"
            problem = "this gate reads the states of all experts, so it can spare none"
            raise ConfigError(problem, key="gate_input", value=self.config.gate_input, fix=fix)
        gating: Gating = self.gate(questions)
        return gating

    def generate_texts(
        self, states: States, questions: torch.Tensor | None, decoding: Decoding
    ) -> list[str]:
        """An answer for each row of states by beam search (head ``generate``).

        Raises:
            ConfigError: The fuser has the other head, or ``decoding`` samples.
            DataError: As :meth:`forward`.
        """
        return [own.text for own in self.write(states, questions, decoding).generations]

    @torch.inference_mode()
    def write(
        self, states: States, questions: torch.Tensor | None, decoding: Decoding
    ) -> WrittenAnswers:
        """As :meth:`generate_texts`, with what each answer took and the weights of the experts."""
        if self.config.decoder_config is None:
            fix = "train one with head: {type: generate, decoder: ...}"
            raise ConfigError("this fuser chooses options and writes no text", key="head", fix=fix)
        fused, _, gating = self._fused(states, None, questions)
        made = decode(self.decoder, self._tokenizer, self.memory(fused), decoding)
        return WrittenAnswers(made, gating.weights)

    def _fused(
        self, states: States, owners: torch.Tensor | None, questions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, Gating]:
        """Fused slots [rows, slots, width], the owners of the rows, and the questions' gating."""
        self._check_names(states)
        rows = len(next(iter(states.values())))
        owners = torch.arange(rows, device=self.device) if owners is None else owners
        check_owners(owners, rows)
        shape = (rows, len(self.projections), self.config.slots, self.config.width)
        if self.config.gate_input == "question":
            gating = self.route(self._checked_questions(questions, int(owners[-1]) + 1))
            chosen = gating.chosen[owners]
            projected = self._projected(states, chosen, shape)
        else:
            everyone = torch.ones(shape[:2], dtype=torch.bool, device=self.device)
            projected = self._projected(states, everyone, shape)
            gating = self.gate(_means(projected.mean(dim=2).flatten(1), owners))
            chosen = gating.chosen[owners]
        fused = self.combination(projected, gating.weights[owners].to(projected.dtype), chosen)
        return fused, owners, gating

    def _projected(
        self, states: States, chosen: torch.Tensor, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """Projected states where an expert is chosen, zeros elsewhere."""
        projected = torch.zeros(shape, device=self.device)
        for i, (name, projection) in enumerate(
            zip(self.config.experts, self.projections, strict=True)
        ):
            rows = chosen[:, i].nonzero()[:, 0]
            if len(rows):
                own = self._own(states, name, shape[0])[rows]
                check_finite(name, own)
                projected[rows, i] = projection(own).float()
        return projected

    def _own(self, states: States, name: str, rows: int) -> torch.Tensor:
        if name not in states:
            problem = f"states of expert '{name}' are missing, and the gate chooses it"
            raise DataError(problem, value=sorted(states), fix="embed the texts with this expert")
        width = self.config.widths[self.config.experts.index(name)]
        check_states(name, states[name], (rows, self.config.slots, width))
        return states[name].to(self.device)

    def _check_names(self, states: States) -> None:
        for name in states:
            if name not in self.config.experts:
                fix = suggestion(name, self.config.experts) + "; or train with this expert"
                raise DataError("the fuser does not know this expert", value=name, fix=fix)
        if not states:
            raise DataError("no states", fix="give those of at least one expert")

    def _checked_questions(self, questions: torch.Tensor | None, count: int) -> torch.Tensor:
        shape = (count, self.config.question_width)
        given = None if questions is None else tuple(questions.shape)
        if questions is None or given != shape:
            fix = "embed the questions with the encoder that the fuser was trained with"
            problem = f"embeddings of the questions must have the shape {shape}"
            raise DataError(problem, value=given, fix=fix)
        return questions.to(self.device).float()


def _means(rows: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of each question, [questions, width]."""
    sizes = owners.bincount()
    sums = rows.new_zeros(len(sizes), rows.shape[1]).index_add(0, owners, rows)
    return sums / sizes[:, None]


AutoModel.register(EmbeddingFuserConfig, EmbeddingFuser)
