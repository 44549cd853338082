"""Fusers that a pipeline names, spelt out as mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blender_med.config import load_yaml
from blender_med.training.config import recipe_file


def with_long_fusers(tree: Any) -> Any:
    """``tree`` with every fuser that stage train-fuser names written as its recipe.

    Args:
        tree: A pipeline with its stages as mappings; anything else comes back as it is.

    Raises:
        ConfigError: No such recipe.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), (list, tuple)):
        return tree
    return {**tree, "stages": [_spelt_out(stage) for stage in tree["stages"]]}


def _spelt_out(stage: Any) -> Any:
    if not isinstance(stage, Mapping) or stage.get("type") != "train-fuser":
        return stage
    if not isinstance(stage.get("fusers"), (list, tuple)):
        return stage
    jobs = [load_yaml(recipe_file(f, "fusers")) if isinstance(f, str) else f
            for f in stage["fusers"]]  # fmt: skip
    return {**stage, "fusers": jobs}
