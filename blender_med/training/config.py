"""Recipes of training jobs; light, nothing is trained or loaded here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import Recipe, load_yaml, parse, speed_only
from blender_med.errors import ConfigError
from blender_med.rankers.config import Name, RankerToTrain, check_source
from blender_med.recipes_folder import find_recipe

Precision = Literal["float32", "bfloat16"]


class TrainingSettings(Recipe):
    """How a model is fitted.

    A step averages the loss over ``batch_size`` questions, ``micro_batch_size`` of them at a
    time in memory. ``precision: auto`` computes in bfloat16 where the hardware has it; trained
    weights and optimiser stay in float32. The model is measured on at most ``max_dev_questions``
    dev questions every ``evaluate_every`` epochs (a ranker by pairwise accuracy); training ends
    after ``patience`` measurements without a better one (None: never early), and the best weights
    are kept.
    """

    epochs: float = Field(5, gt=0)
    batch_size: int = Field(64, ge=1, description="questions per step")
    micro_batch_size: int = speed_only(8, ge=1, description="questions per forward pass")
    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    learning_rate: float = Field(1e-5, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto"] | Precision = "auto"
    gradient_checkpointing: bool = speed_only(False)
    evaluate_every: float = Field(0.5, gt=0, description="epochs")
    patience: int | None = Field(4, ge=1)
    max_dev_questions: int | None = Field(200, ge=1)
    logging_steps: int = speed_only(10, ge=1)
    report_to: tuple[str, ...] = speed_only(("tensorboard",))

    def accumulation_steps(self, processes: int = 1) -> int:
        """Forward passes of one step in each of the processes that share it.

        Raises:
            ConfigError: The processes cannot share a step evenly.
        """
        micro_batch = min(self.batch_size, self.micro_batch_size)
        steps, rest = divmod(self.batch_size, micro_batch * processes)
        if rest:
            problem = f"{processes} processes with {micro_batch} questions each cannot share a step"
            fix = "make 'batch_size' a multiple of processes times 'micro_batch_size'"
            raise ConfigError(problem, key="training.batch_size", value=self.batch_size, fix=fix)
        return steps

    def steps_per_epoch(self, examples: int) -> int:
        """Steps in which ``examples`` questions are seen once."""
        return math.ceil(examples / self.batch_size)

    def total_steps(self, examples: int) -> int:
        """Steps of a training on ``examples`` questions that is not stopped early."""
        return math.ceil(self.epochs * self.steps_per_epoch(examples))

    def warmup_steps(self, examples: int) -> int:
        """Steps over which the learning rate rises; at the first of them it is 0."""
        total = self.total_steps(examples)
        return min(math.ceil(self.warmup_ratio * total), total - 1)

    def evaluation_steps(self, examples: int) -> int:
        """Steps from one measurement to the next; the first of all sees trained weights."""
        least = 2 if self.warmup_steps(examples) else 1
        return max(least, round(self.evaluate_every * self.steps_per_epoch(examples)))

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainingSettings:
        if self.batch_size > self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("'batch_size' must be a multiple of 'micro_batch_size'")
        return self


class TrainingData(Recipe):
    """Where scored candidates come from: a finished run, or a file in MixInstruct's format.

    ``candidates`` is a local file, folder or zip, or a Hub id. A file without a dev split gives
    a fifth of its train questions to dev.
    """

    run: str | None = None
    candidates: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TrainingData:
        if (self.run is None) == (self.candidates is None):
            raise ValueError("give exactly one of 'run' and 'candidates'")
        return self


class RankerJob(Recipe):
    """Trains one ranker.

    ``labels`` are the metrics whose values order the candidates; each is one task of the ranker.
    ``data`` and ``output_dir`` are for ``blender-med train``: in a pipeline the run has both.
    """

    name: Name
    description: str = speed_only("")
    seed: int = Field(0, ge=0, lt=2**31)
    output_dir: str = speed_only("models")
    labels: tuple[str, ...] = Field(min_length=1)
    data: TrainingData | None = speed_only(None)
    ranker: RankerToTrain
    training: TrainingSettings = TrainingSettings()

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a label metric stands twice")
        return value


def load_ranker_job(
    source: str | Path | Mapping[str, Any], *, file: str | Path | None = None, key: str = ""
) -> RankerJob:
    """A training job, checked as far as that goes without loading a model.

    Args:
        source: Name or path of a recipe (see :func:`recipe_file`), or its plain data.
        file: Where plain data come from, for messages.
        key: Where they stand in the calling recipe, for messages.

    Raises:
        ConfigError: No such recipe, it is not valid, or its backbone or run is not to be found.
        MissingDependencyError: The backbone's package is not installed.
    """
    if not isinstance(source, Mapping):
        file = recipe_file(source)
        source = load_yaml(file)
    job = parse(RankerJob, source, file=file, key=key)
    prefix = f"{key}." if key else ""
    check_source(job.ranker.backbone, f"{prefix}ranker.backbone")
    check_run(job.data.run if job.data else None, file, prefix)
    return job


def check_run(run: str | None, file: str | Path | None, prefix: str = "") -> None:
    """Check that the run to learn from is there. Raises ConfigError where it is not."""
    if run is not None and not Path(run).is_dir():
        fix = "name a run directory, such as runs/medquad"
        raise ConfigError("no such run", file=file, key=f"{prefix}data.run", value=run, fix=fix)


def recipe_file(source: str | Path, folder: str = "rankers") -> Path:
    """File of a recipe: a path of a YAML file, or the name of one in ``folder``.

    Raises:
        ConfigError: There is none.
    """
    path = Path(source)
    named = path.suffix not in (".yaml", ".yml")
    return find_recipe(Path(folder) / f"{path}.yaml" if named else path)
