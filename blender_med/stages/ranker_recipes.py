"""Rankers that a pipeline names: spelt out as mappings, and checked against the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blender_med.config import load_yaml
from blender_med.errors import ConfigError
from blender_med.rankers import RANKERS
from blender_med.registry import suggestion
from blender_med.training.config import recipe_file


def with_long_rankers(tree: Any) -> Any:
    """``tree`` with every ranker that is given as a bare name written as a mapping.

    In stage train-ranker a name is that of a recipe; in stage rank it is that of a ranker trained
    before, or a type.

    Args:
        tree: A pipeline with its stages as mappings; anything else comes back as it is.

    Raises:
        ConfigError: No such recipe, ranker or type.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), (list, tuple)):
        return tree
    stages = list(tree["stages"])
    trained: dict[str, str] = {}
    for position, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or not isinstance(stage.get("rankers"), (list, tuple)):
            continue
        if stage.get("type") == "train-ranker":
            jobs = [_recipe(r) if isinstance(r, str) else r for r in stage["rankers"]]
            trained |= _types(jobs)
            stages[position] = {**stage, "rankers": jobs}
        elif stage.get("type") == "rank":
            key = f"stages.{position}.rankers"
            rankers = [_applied(r, trained, key) for r in stage["rankers"]]
            stages[position] = {**stage, "rankers": rankers}
    return {**tree, "stages": stages}


def _recipe(name: str) -> dict[str, Any]:
    return load_yaml(recipe_file(name))


def _types(jobs: list[Any]) -> dict[str, str]:
    """Type of each trained ranker by its name; what is malformed is left to the parser."""
    found = {}
    for job in jobs:
        if isinstance(job, Mapping) and isinstance(job.get("ranker"), Mapping):
            found[str(job.get("name"))] = str(job["ranker"].get("type"))
    return found


def _applied(ranker: Any, trained: Mapping[str, str], key: str) -> Any:
    if not isinstance(ranker, str):
        return ranker
    if ranker in trained:
        return {"type": trained[ranker], "trained": ranker}
    if ranker in RANKERS:
        return {"type": ranker}
    problem = "neither a ranker that this run trains nor a type of ranker"
    raise ConfigError(problem, key=key, value=ranker, fix=suggestion(ranker, [*trained, *RANKERS]))
