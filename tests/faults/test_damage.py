"""Files of a run that are damaged while nobody looks: made again, or named in one message."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from blender_med.errors import StoreError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline
from blender_med.store.lock import run_lock


@pytest.fixture
def again(study):
    """Runs the study once more in this process; returns what was done to each stage."""

    def run(*overrides: str, **selected) -> dict[str, str]:
        opened = open_recipe(study.recipe, overrides)
        executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
        with run_lock(opened.folder):
            plans = run_pipeline(opened, executor, Selection(**selected))
        return {plan.name: plan.action for plan in plans}

    return run


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("stage", ["prepare", "generate", "score", "rank", "evaluate"])
def test_a_truncated_shard_is_made_again(stage, finished, again, study, undisturbed) -> None:
    truncate(sorted((finished / stage).glob("part-*"))[-1])
    assert again()[stage] == "resume"
    assert study.results(finished) == study.results(undisturbed)


@pytest.mark.parametrize("stage", ["generate", "rank"])
def test_a_flipped_byte_is_noticed_and_named(stage, finished, again, study, undisturbed) -> None:
    """The end of the file, by which a shard counts as whole, is in order; a page is not."""
    shard = sorted((finished / stage).glob("part-*"))[0]
    data = bytearray(shard.read_bytes())
    data[60] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=f"{shard.name}.*Fix: delete this file"):
        again(start="evaluate" if stage == "rank" else "score", force=True)
    shard.unlink()
    again()
    assert study.results(finished) == study.results(undisturbed)


DAMAGE = {
    "empty": b"",
    "half": b'{"schema_version": 1, "stage": "sc',
    "bytes": b"\x00\xff\xfe" * 40,
    "list": b"[]",
    "deep": b"[" * 100_000,
    "other": b'{"fingerprint": "x", "units": ["../../evil"], "shard_size": 0}',
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
@pytest.mark.parametrize("name", ["manifest.json", "progress.json"])
def test_a_corrupted_manifest(damage, name, finished, again, study, undisturbed) -> None:
    for stage in ("prepare", "generate", "rank", "report"):
        (finished / stage / name).write_bytes(DAMAGE[damage])
    (finished / "generate" / "manifest.json").unlink()
    again()
    assert study.results(finished) == study.results(undisturbed)
    assert not (finished.parent / "evil").exists()


def test_a_plan_with_impossible_shards(finished, again, study, undisturbed) -> None:
    progress = finished / "rank" / "progress.json"
    tree = json.loads(progress.read_text())
    progress.write_text(json.dumps(tree | {"shard_size": 0}))
    (finished / "rank" / "manifest.json").unlink()
    again()
    assert study.results(finished) == study.results(undisturbed)


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_corrupted_saved_recipe(damage, finished, again, study, undisturbed) -> None:
    (finished / "recipe.yaml").write_bytes(DAMAGE[damage])
    assert set(again().values()) == {"skip"}
    assert (finished / "recipe.yaml").read_bytes() == (
        undisturbed / "recipe.yaml"
    ).read_bytes().replace(str(undisturbed.parent).encode(), str(study.runs).encode())


def test_a_corrupted_generation_cache(study, again, finished, undisturbed, monkeypatch) -> None:
    cache = study.folder / "cache"
    monkeypatch.setenv("BLENDER_MED_CACHE", str(cache))
    again("name=first")
    for file in cache.rglob("*.sqlite"):
        file.write_bytes(b"no data base" * 1000)
    with pytest.raises(StoreError, match=r"\.sqlite.*Fix: delete this file"):
        again("name=second")
    for file in cache.rglob("*.sqlite*"):
        file.unlink()
    again("name=second")
    assert study.results(study.runs / "second") == study.results(undisturbed)


def test_a_clock_that_goes_backwards(study, again, undisturbed, monkeypatch) -> None:
    """Every look at the clock is an hour before the last, and finished files are of tomorrow."""
    now = [time.time() + 1e6]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    run = study.runs / "clock"
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", backwards)
        clock.setattr(time, "gmtime", lambda *_: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
        again("name=clock", only=("prepare", "generate"))
        for path in run.rglob("*"):
            os.utime(path, (4e9, 4e9))
        plans = again("name=clock")
        assert (plans["generate"], plans["score"]) == ("skip", "run")
        assert set(again("name=clock").values()) == {"skip"}
    assert study.results(run) == study.results(undisturbed)
