"""Settings of the embedding fuser; light, torch is not imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blender_med.config import Recipe
from blender_med.fusers.gate_config import DenseGateConfig, GateConfig

Mode = Literal["weighted_sum", "refined", "transformer"]
GateInput = Literal["question", "experts"]
Tuning = Literal["frozen", "lora", "full"]
_WHOLE_HEADS = "'width' must be a multiple of 'attention_heads'"


class ChoiceHeadConfig(Recipe):
    """Scores every option of a multiple-choice question."""

    type: Literal["choice"] = "choice"


class NewDecoderConfig(Recipe):
    """A small T5 decoder with random weights, for where no Flan-T5 is at hand.

    Its tokens (byte-level BPE) are learned from the references of the train questions.
    """

    vocabulary: int = Field(4000, ge=300, description="most tokens")
    width: int = Field(128, ge=1)
    layers: int = Field(2, ge=1)
    attention_heads: int = Field(4, ge=1)


class GenerateHeadConfig(Recipe):
    """Writes a text: the fused slots are what a T5 decoder cross-attends to.

    ``decoder`` is the folder, Hub id or ``package:NAME`` of a T5, such as Flan-T5, or says what a
    new one is like. ``tuning`` says what of it learns: nothing, LoRA matrices on its attention, or
    all of it. The layers that fuse always learn.
    """

    type: Literal["generate"] = "generate"
    decoder: str | NewDecoderConfig
    revision: str | None = None
    tuning: Tuning = "lora"
    lora_rank: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _new_learns(self) -> GenerateHeadConfig:
        if isinstance(self.decoder, NewDecoderConfig):
            if self.tuning != "full":
                raise ValueError("a new decoder knows nothing yet: set 'tuning' to full")
            if self.revision is not None:
                raise ValueError("a new decoder has no revision: leave 'revision' out")
            if self.decoder.width % self.decoder.attention_heads:
                raise ValueError(f"of a new decoder {_WHOLE_HEADS}")
        return self


HeadConfig = Annotated[ChoiceHeadConfig | GenerateHeadConfig, Field(discriminator="type")]


class EmbeddingFuserSettings(Recipe):
    """How the states of the experts become one answer.

    ``mode`` is one of three steps: ``weighted_sum`` adds the projected states up with the gate's
    weights, ``refined`` adds a residual feed-forward layer behind that, ``transformer`` has the
    slots of all chosen experts attend to each other before it. The gate reads an embedding of
    the ``question``, or the mean projected states of all ``experts`` (then none can be spared).
    """

    mode: Mode = "weighted_sum"
    head: HeadConfig = ChoiceHeadConfig()
    gate: GateConfig = DenseGateConfig()
    gate_input: GateInput = "question"
    width: int = Field(256, ge=1, description="width that all experts are projected into")
    layers: int = Field(2, ge=1, description="of the transformer")
    attention_heads: int = Field(4, ge=1, description="of the transformer")
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> EmbeddingFuserSettings:
        if self.mode == "transformer" and self.width % self.attention_heads:
            raise ValueError(_WHOLE_HEADS)
        return self
