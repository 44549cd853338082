"""A pipeline whose engine dies, hangs or returns garbage stops with one message and goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from blender_med.errors import ExpertError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.experts import local
from blender_med.experts import process as process_module
from blender_med.records import Candidate
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline
from blender_med.store.shards import read_parts

WORKER = Path(__file__).parent / "toy_worker.py"
MESSAGES = {
    "die": r"died \(signal 9\)",
    "hang": "did nothing for 2 s",
    **dict.fromkeys(
        ("fewer", "more", "none", "texts", "bytes", "counts", "nan"), "returned garbage"
    ),
}


@pytest.fixture
def candidates(recipe_tree, save_recipe, tiny_llama, monkeypatch):
    """Runs the pipeline up to stage generate with the toy engine; returns the candidates."""
    monkeypatch.setattr(process_module, "_WORKER", (str(WORKER),))
    monkeypatch.setattr(process_module, "_GRACE_SECONDS", 0.5)
    expert = {"name": "toy", "engine": "transformers", "model": str(tiny_llama)}
    recipe_tree["experts"] = [expert, recipe_tree["experts"][0]]
    recipe_tree["stages"] = recipe_tree["stages"][:2]
    recipe_tree["stages"][1]["mcq"] = {"protocols": ["generative"]}
    path = save_recipe(recipe_tree)

    def run(name: str) -> list[Any]:
        opened = open_recipe(path, [f"name={name}", "stages.generate.cache=false"])
        executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
        run_pipeline(opened, executor, Selection())
        found = read_parts(opened.stage_folder("generate"), Candidate)
        return [replace(candidate, seconds=0) for candidate in found]

    return run


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The undisturbed candidates, made by the first test."""
    return {}


@pytest.mark.parametrize("fault", sorted(MESSAGES))
def test_the_run_stops_clearly_and_continues(
    fault, candidates, whole, tmp_path, monkeypatch
) -> None:
    if not whole:
        whole["candidates"] = candidates("whole")
    flag = tmp_path / "flag"
    flag.touch()
    monkeypatch.setenv("TOY_FLAG", str(flag))
    monkeypatch.setenv("TOY_FAULT", fault)
    if fault == "hang":
        patient = partial(process_module.EngineProcess, stall_seconds=2)
        monkeypatch.setattr(local, "EngineProcess", patient)
    with pytest.raises(ExpertError, match=MESSAGES[fault]):
        candidates("faulty")
    flag.unlink()
    assert candidates("faulty") == whole["candidates"]
