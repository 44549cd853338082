"""Recipes of the training of embedding fusers; light, nothing is trained or loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import Recipe, load_yaml, parse, speed_only
from blender_med.fusers.embedding_config import EmbeddingFuserSettings, GenerateHeadConfig
from blender_med.rankers.config import Name, check_source
from blender_med.training.config import Precision, TrainingSettings, check_run, recipe_file

DevMetric = Literal["accuracy", "log_likelihood"]


class StateData(Recipe):
    """A finished run with the stages prepare and embed, whose states are learned from."""

    run: str


class EmbeddingTraining(TrainingSettings):
    """How an embedding fuser is fitted.

    ``dev_metric`` chooses the weights: ``accuracy``, the share of dev questions whose right option
    it chooses, or ``log_likelihood``, the mean of the right option, or of a token of the
    references; None: accuracy where it chooses, else log_likelihood. An epoch draws from each data
    set in proportion to its size to the power of 1 / ``sampling_temperature``: 1 takes the data
    as they are, a high temperature all data sets alike.
    """

    epochs: float = Field(15, gt=0)
    # No matter of speed: the losses that balance a gate are not sums over questions.
    micro_batch_size: int = Field(64, ge=1, description="questions per forward pass")
    optimizer: Literal["adafactor", "adamw"] = "adamw"
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    precision: Literal["auto"] | Precision = "float32"
    evaluate_every: float = Field(1, gt=0, description="epochs")
    patience: int | None = Field(5, ge=1)
    max_dev_questions: int | None = Field(None, ge=1)
    report_to: tuple[str, ...] = speed_only(())
    dev_metric: DevMetric | None = None
    sampling_temperature: float = Field(1, ge=1)
    target_maxlength: int = Field(128, ge=1, description="tokens of a text that is learned")


class EmbeddingFuserJob(Recipe):
    """Trains one embedding fuser on stored hidden states.

    ``experts`` are those whose states it reads, all of the run by default; with one it is a probe
    of that expert. ``start`` is a trained embedding fuser of the same experts and settings, whose
    projections, gate and combination are where training starts. ``data`` and ``output_dir`` are
    for ``blender-med train``: in a pipeline the run has both.
    """

    name: Name
    description: str = speed_only("")
    seed: int = Field(0, ge=0, lt=2**31)
    output_dir: str = speed_only("models")
    data: StateData | None = speed_only(None)
    experts: tuple[str, ...] | None = Field(None, min_length=1)
    start: str | None = None
    embedding_fuser: EmbeddingFuserSettings
    training: EmbeddingTraining = EmbeddingTraining()

    @field_validator("experts")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("an expert stands twice")
        return value

    @property
    def writes(self) -> bool:
        """Whether the fuser writes texts; else it chooses options."""
        return isinstance(self.embedding_fuser.head, GenerateHeadConfig)

    @property
    def dev_metric(self) -> DevMetric:
        """What chooses the weights."""
        return self.training.dev_metric or ("log_likelihood" if self.writes else "accuracy")

    @model_validator(mode="after")
    def _measurable(self) -> EmbeddingFuserJob:
        if self.writes and self.dev_metric == "accuracy":
            raise ValueError("a fuser that writes is measured by dev_metric: log_likelihood")
        return self


def load_embedding_job(
    source: str | Path | Mapping[str, Any], *, file: str | Path | None = None, key: str = ""
) -> EmbeddingFuserJob:
    """A training job, checked as far as that goes without loading a model.

    Args:
        source: Name or path of a recipe in ``fusers/``, or its plain data.
        file: Where plain data come from, for messages.
        key: Where they stand in the calling recipe, for messages.

    Raises:
        ConfigError: No such recipe, it is not valid, or its decoder or run is not to be found.
        MissingDependencyError: The decoder's package is not installed.
    """
    if not isinstance(source, Mapping):
        file = recipe_file(source, "fusers")
        source = load_yaml(file)
    job = parse(EmbeddingFuserJob, source, file=file, key=key)
    prefix = f"{key}." if key else ""
    check_embedding_job(job, prefix)
    check_run(job.data.run if job.data else None, file, prefix)
    return job


def check_embedding_job(job: EmbeddingFuserJob, prefix: str = "") -> None:
    """Check the models that a job starts from. Raises as :func:`load_embedding_job`."""
    head = job.embedding_fuser.head
    if isinstance(head, GenerateHeadConfig) and isinstance(head.decoder, str):
        check_source(head.decoder, f"{prefix}embedding_fuser.head.decoder")
    if job.start is not None:
        check_source(job.start, f"{prefix}start")
