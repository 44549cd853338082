"""What a checkpoint of an embedding fuser says about it: experts, widths, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from blender_med.config import parse
from blender_med.errors import ConfigError
from blender_med.fusers.embedding_config import EmbeddingFuserSettings, GateInput, Mode, Tuning


class EmbeddingFuserConfig(PreTrainedConfig):
    """Configuration of an embedding fuser.

    Attributes:
        experts: Names of the experts, in the order of their weights.
        widths: Width of the states of each expert.
        slots: Vectors per text and expert: 1 for pooled states.
        question_width: Width of the embedding of a question that the gate reads.
        gate: Settings of the gate, as in a recipe.
        decoder_config: Configuration of the decoder; None with the head ``choice``.

    The other fields are those of :class:`EmbeddingFuserSettings`.
    """

    model_type = "embedding_fuser"
    sub_configs: ClassVar[dict[str, Any]] = {"decoder_config": AutoConfig}

    experts: list[str] | tuple[str, ...] = ()
    widths: list[int] | tuple[int, ...] = ()
    slots: int = 1
    question_width: int | None = None
    mode: Mode = "weighted_sum"
    gate: dict[str, Any] = field(default_factory=lambda: {"type": "dense"})
    gate_input: GateInput = "question"
    width: int = 256
    layers: int = 2
    attention_heads: int = 4
    dropout: float | int = 0.1
    tuning: Tuning = "frozen"
    lora_rank: int = 8
    decoder_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the decoder's configuration from its dictionary."""
        if isinstance(self.decoder_config, dict):
            values = dict(self.decoder_config)
            self.decoder_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


def check_experts(config: EmbeddingFuserConfig, experts: Mapping[str, int]) -> None:
    """Check that a fuser was trained with these experts; their order does not matter.

    Raises:
        ConfigError: It was not, or with other widths.
    """
    trained = dict(zip(config.experts, config.widths, strict=True))
    fix = "name a fuser that was trained with these experts, or train one"
    if set(trained) != set(experts):
        problem = f"the fuser was trained with the experts {', '.join(sorted(trained))}"
        raise ConfigError(problem, key="experts", value=sorted(experts), fix=fix)
    for name, width in experts.items():
        if trained[name] != width:
            problem = f"the fuser was trained with states of width {trained[name]} of '{name}'"
            raise ConfigError(problem, key=f"experts.{name}", value=width, fix=fix)


def checked_settings(config: EmbeddingFuserConfig) -> EmbeddingFuserSettings:
    """The settings in a configuration, after a look at what they say together.

    Raises:
        ConfigError: There are no experts, one stands twice, or the gate has nothing to read.
    """
    names: Sequence[str] = config.experts
    if not names or len(set(names)) != len(names) or len(names) != len(config.widths):
        problem = "a fuser needs experts of different names, and a width for each"
        raise ConfigError(problem, key="experts", value=list(names), fix="name them with widths")
    if config.gate_input == "question" and not config.question_width:
        fix = "give question_width, or set gate_input: experts"
        problem = "the gate reads an embedding of the question"
        raise ConfigError(problem, key="question_width", value=config.question_width, fix=fix)
    fields = EmbeddingFuserSettings.model_fields.keys() - {"head"}
    return parse(EmbeddingFuserSettings, {name: getattr(config, name) for name in fields})


AutoConfig.register("embedding_fuser", EmbeddingFuserConfig)
