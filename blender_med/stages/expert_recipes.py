"""Experts that a pipeline makes: spelt out as mappings, and their place in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blender_med.config import load_yaml
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.experts.made import made_expert
from blender_med.stages.config import PipelineRecipe, TrainExpertConfig
from blender_med.training.config import recipe_file
from blender_med.training.expert_config import FinetuneJob


def with_long_experts(tree: Any) -> Any:
    """``tree`` with every job of stage train-expert that is given by name written as a mapping.

    Args:
        tree: A pipeline with its stages as mappings; anything else comes back as it is.

    Raises:
        ConfigError: No such recipe.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), (list, tuple)):
        return tree
    return {**tree, "stages": [_spelt_out(stage) for stage in tree["stages"]]}


def _spelt_out(stage: Any) -> Any:
    if not isinstance(stage, Mapping) or stage.get("type") != "train-expert":
        return stage
    experts = stage.get("experts")
    if not isinstance(experts, (list, tuple)):
        return stage
    jobs = [load_yaml(recipe_file(e, "experts")) if isinstance(e, str) else e for e in experts]
    return {**stage, "experts": jobs}


def made_in_run(recipe: PipelineRecipe, folder: Path) -> dict[str, ExpertConfig]:
    """Experts that a run makes, by name, where it makes them.

    Args:
        recipe: The pipeline.
        folder: The run directory.

    Raises:
        ConfigError: A base is neither made before it nor an expert recipe.
    """
    stage = recipe.stage("train-expert")
    made: dict[str, ExpertConfig] = {}
    for job in stage.jobs if isinstance(stage, TrainExpertConfig) else ():
        key = f"train-expert.experts.{job.name}.base"
        base = made.get(job.base) or load_expert_config(job.base, key=key)
        save = job.save if isinstance(job, FinetuneJob) else "merged"
        place = folder / "train-expert" / job.name
        command = f"stage train-expert of run {recipe.name}"
        made[job.name] = made_expert(job, base, place, save=save, command=command)
    return made
