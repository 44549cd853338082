"""A pipeline that trains rankers and ranks with them, and a way to run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline

Go = Callable[..., tuple[Run, dict[str, str]]]


@pytest.fixture
def ranker_tree(recipe_tree: dict[str, Any], tiny_encoder: Path) -> dict[str, Any]:
    """Three splits, one ranker trained in a few steps, and one that needs no training."""
    job = {
        "name": "pairranker",
        "labels": ["rougeL"],
        "ranker": {
            "type": "pairranker",
            "backbone": str(tiny_encoder),
            "source_maxlength": 16,
            "candidate_maxlength": 16,
        },
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "micro_batch_size": 4,
            "optimizer": "adamw",
            "precision": "float32",
            "report_to": [],
        },
    }
    recipe_tree["stages"] = [
        {"type": "prepare", "splits": {"train": 0.4, "dev": 0.2, "test": 0.4}},
        *recipe_tree["stages"][1:3],
        {"type": "train-ranker", "rankers": [job]},
        {"type": "rank", "rankers": ["pairranker", "bm25"], "shard_size": 6},
        *recipe_tree["stages"][3:],
    ]
    return recipe_tree


@pytest.fixture
def go(save_recipe) -> Go:
    """Runs a pipeline; returns the run and what was done to each stage."""

    def run(tree: dict[str, Any], *overrides: str, selection: Selection | None = None):
        opened = open_recipe(save_recipe(tree), overrides)
        executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
        plans = run_pipeline(opened, executor, selection or Selection())
        return opened, {plan.name: plan.action for plan in plans}

    return run
