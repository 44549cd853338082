"""Recipes of the training of fusers; light, nothing is trained or loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import Recipe, load_yaml, parse, speed_only
from blender_med.fusers.config import Decoding, FuserToTrain
from blender_med.metrics import METRIC_SPECS
from blender_med.rankers.config import Name
from blender_med.registry import suggestion
from blender_med.training.backbone import check_backbone
from blender_med.training.config import TrainingData, TrainingSettings, check_run, recipe_file

# Metrics that need no model.
TEXT_METRICS = tuple(
    name
    for name, spec in METRIC_SPECS.items()
    if spec.task == "long" and spec.directed and spec.model is None
)


class ShownCandidates(Recipe):
    """Which candidates a prompt shows, and in which order.

    The ``top_k`` best by a scored metric, or by a ranker of the run's stage rank. ``shuffled``
    gives every epoch another order; dev prompts are always ranked. ``dropout`` leaves each
    candidate out of a training prompt with this probability, but never all.
    """

    metric: str | None = None
    ranker: str | None = None
    top_k: int = Field(3, ge=1)
    order: Literal["ranked", "shuffled"] = "ranked"
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_order(self) -> ShownCandidates:
        if (self.metric is None) == (self.ranker is None):
            raise ValueError("give exactly one of 'metric' and 'ranker'")
        return self


class LoRA(Recipe):
    """Low-rank adapters in place of all weights (Hu et al. 2021); merged when training ends."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class FuserTraining(TrainingSettings):
    """How a fuser is fitted; measured by the texts that it generates for dev questions.

    ``dev_metric`` is the mean of a text metric against the references, ``decoding`` how the texts
    are written. ``gradient_checkpointing`` saves memory for time. A step averages the loss over
    the tokens of its answers.
    """

    epochs: float = Field(3, gt=0)
    micro_batch_size: int = speed_only(4, ge=1, description="questions per forward pass")
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_dev_questions: int | None = Field(100, ge=1)
    dev_metric: str = "rougeL"
    decoding: Decoding = Decoding(num_beams=1)

    @field_validator("dev_metric")
    @classmethod
    def _computed_from_text(cls, value: str) -> str:
        if value not in TEXT_METRICS:
            raise ValueError(f"no such text metric '{value}'; {suggestion(value, TEXT_METRICS)}")
        return value


class FuserJob(Recipe):
    """Trains one fuser.

    ``lora`` null trains all weights. ``quantization`` loads the backbone below the adapters in 8
    or 4 bits (CUDA only). ``data`` and ``output_dir`` are for ``blender-med train``: in a pipeline
    the run has both.
    """

    name: Name
    description: str = speed_only("")
    seed: int = Field(0, ge=0, lt=2**31)
    output_dir: str = speed_only("models")
    data: TrainingData | None = speed_only(None)
    candidates: ShownCandidates
    fuser: FuserToTrain
    lora: LoRA | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    training: FuserTraining = FuserTraining()

    @model_validator(mode="after")
    def _adapters_on_quantized_weights(self) -> FuserJob:
        if self.quantization and self.lora is None:
            raise ValueError("'quantization' needs 'lora': quantised weights cannot be trained")
        return self


def load_fuser_job(
    source: str | Path | Mapping[str, Any], *, file: str | Path | None = None, key: str = ""
) -> FuserJob:
    """A training job, checked as far as that goes without loading a model.

    Args:
        source: Name or path of a recipe in ``fusers/``, or its plain data.
        file: Where plain data come from, for messages.
        key: Where they stand in the calling recipe, for messages.

    Raises:
        ConfigError: No such recipe, it is not valid, or its backbone or run is not to be found.
        MissingDependencyError: The backbone's package is not installed.
    """
    if not isinstance(source, Mapping):
        file = recipe_file(source, "fusers")
        source = load_yaml(file)
    job = parse(FuserJob, source, file=file, key=key)
    prefix = f"{key}." if key else ""
    check_backbone(job.fuser.backbone, f"{prefix}fuser.backbone")
    check_run(job.data.run if job.data else None, file, prefix)
    return job
