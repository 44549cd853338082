"""Experts that a job of this project makes: tuned, merged or quantised. Light."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from blender_med.config import InvalidValueError, Recipe, speed_only
from blender_med.errors import ExpertError
from blender_med.experts.config import ExpertConfig
from blender_med.registry import suggestion

Save = Literal["merged", "adapter"]

# Of the base's recipe: what says where its weights are, and what is only true of them.
_OF_THE_BASE = {
    "name", "description", "license", "model", "revision", "package", "file", "sha256",
    "tokenizer", "lora", "quantization", "allow_pickle", "made_by",
}  # fmt: skip
_SOURCE = {"model", "revision", "package", "file", "sha256", "tokenizer", "allow_pickle"}
_SOURCE |= {"quantization"}


class NotMadeError(ExpertError):
    """The weights of an expert are made by a job that has not run."""


class ExpertJob(Recipe):
    """What the recipes of all jobs that make an expert have in common.

    ``base`` names the expert whose prompt the new one takes over; ``expert`` are keys of an
    expert recipe that it has otherwise. The recipe is that of the new expert too: a pipeline
    names it under ``experts``.
    """

    job: Literal["finetune", "merge", "quantise"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = speed_only("")
    license: str = speed_only("")
    output_dir: str = speed_only("models")
    base: str
    expert: dict[str, Any] = Field(default_factory=dict)

    @field_validator("expert")
    @classmethod
    def _not_the_weights(cls, value: dict[str, Any]) -> dict[str, Any]:
        allowed = set(ExpertConfig.model_fields) - _OF_THE_BASE
        for key in value:
            if key not in allowed:
                fix = suggestion(key, sorted(allowed))
                raise InvalidValueError(f"the job decides on '{key}', or there is none", fix=fix)
        return value

    @property
    def folder(self) -> Path:
        """Where ``blender-med train`` writes the expert."""
        return Path(self.output_dir) / self.name


def made_expert(
    job: ExpertJob, base: ExpertConfig, folder: Path, *, save: Save, command: str | None = None
) -> ExpertConfig:
    """The expert that a job makes.

    Args:
        job: Its recipe.
        base: The expert that ``job.base`` names.
        folder: Where the job writes.
        save: Whether that is a whole model or an adapter of the base.
        command: What runs the job; None: it has run.
    """
    kept = base.model_dump(exclude_unset=True)
    if save == "adapter":
        weights = {key: kept[key] for key in _SOURCE if key in kept} | {"lora": str(folder)}
    else:
        weights = {"model": str(folder)}
    if job.job == "quantise":
        weights["quantization"] = "compressed-tensors"
    own = {
        "name": job.name,
        "description": job.description,
        "license": job.license or base.license,
        "made_by": command,
    }
    shared = {key: value for key, value in kept.items() if key not in _OF_THE_BASE}
    return ExpertConfig.model_validate(shared | own | weights | job.expert)


def check_made(config: ExpertConfig) -> None:
    """Check that the job of an expert has run; an expert that no job makes passes.

    Raises:
        NotMadeError: It has not.
    """
    folder = config.lora or config.model
    if config.made_by and not (Path(str(folder)) / "manifest.json").is_file():
        problem = f"expert '{config.name}' is not made yet"
        fix = f"run: {config.made_by}"
        raise NotMadeError(problem, key="model", value=folder, fix=fix)
