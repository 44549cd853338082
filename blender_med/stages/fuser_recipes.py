"""Fusers that a pipeline names: spelt out as mappings, and checked against the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blender_med.config import load_yaml, merged
from blender_med.errors import ConfigError
from blender_med.registry import suggestion
from blender_med.training.config import recipe_file

_NEED_NOTHING = ("concatenation",)


def with_long_fusers(tree: Any) -> Any:
    """``tree`` with every fuser that is given as a bare name written as a mapping.

    In the stages train-fuser and train-gate a name is that of a recipe, and a mapping with the
    key ``recipe`` is that recipe with what else the mapping sets. In stage fuse a name is that of
    a fuser trained before, or a type that needs no settings; in stage gate that of a fuser trained
    before.

    Args:
        tree: A pipeline with its stages as mappings; anything else comes back as it is.

    Raises:
        ConfigError: No such recipe, fuser or type.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), (list, tuple)):
        return tree
    stages = list(tree["stages"])
    trained: dict[str, str] = {}  # type of the fuser in stage fuse, by name
    for position, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or not isinstance(stage.get("fusers"), (list, tuple)):
            continue
        fusers, key = stage["fusers"], f"stages.{position}.fusers"
        if stage.get("type") in ("train-fuser", "train-gate"):
            fusers = [_recipe(f) for f in fusers]
            kind = "genfuser" if stage["type"] == "train-fuser" else "embedding"
            names = [str(job.get("name")) for job in fusers if isinstance(job, Mapping)]
            seeds = stage.get("seeds")
            if isinstance(seeds, (list, tuple)):
                names = [f"{name}-seed{seed}" for name in names for seed in seeds]
            for name in names:
                trained.setdefault(name, kind)
        elif stage.get("type") == "fuse":
            fusers = [_applied(fuser, trained, key) for fuser in fusers]
        elif stage.get("type") == "gate":
            fusers = [{"trained": f} if isinstance(f, str) else f for f in fusers]
        stages[position] = {**stage, "fusers": fusers}
    return {**tree, "stages": stages}


def _recipe(fuser: Any) -> Any:
    if isinstance(fuser, str):
        return load_yaml(recipe_file(fuser, "fusers"))
    if isinstance(fuser, Mapping) and isinstance(fuser.get("recipe"), str):
        changes = {key: value for key, value in fuser.items() if key != "recipe"}
        return merged(load_yaml(recipe_file(fuser["recipe"], "fusers")), changes)
    return fuser


def _applied(fuser: Any, trained: Mapping[str, str], key: str) -> Any:
    if not isinstance(fuser, str):
        return fuser
    if fuser in trained:
        return {"type": trained[fuser], "trained": fuser}
    if fuser in _NEED_NOTHING:
        return {"type": fuser}
    problem = "neither a fuser that this run trains nor a type that needs no settings"
    fix = suggestion(fuser, [*trained, *_NEED_NOTHING]) + "; or give its settings"
    raise ConfigError(problem, key=key, value=fuser, fix=fix)
