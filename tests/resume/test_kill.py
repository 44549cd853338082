"""A run that is killed at any moment and started again equals one that was never disturbed."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

COMMAND = [sys.executable, "-m", "blender_med", "run"]
STAGES = ("prepare", "generate", "score", "fuse", "evaluate")
TABLES = ("methods.csv", "answers.csv", "slices.csv", "cost.csv", "fusion.csv")


def _shards(run: Path) -> dict[str, object]:
    """Every shard of a run without its ``seconds``, and the tables without theirs."""
    found: dict[str, object] = {}
    for stage in STAGES:
        for path in sorted((run / stage).glob("part-*.parquet")):
            table = pq.read_table(path)
            keep = [name for name in table.column_names if name != "seconds"]
            found[f"{stage}/{path.name}"] = table.select(keep).to_pylist()
    return found


def _tables(run: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name in TABLES:
        with (run / "report" / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found[name] = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    return found


def _slow_recipe(tree: dict) -> dict:
    for expert in tree["experts"]:
        expert["engine_options"]["seconds_per_request"] = 0.01
    tree["stages"][1]["shard_size"] = 4
    # ROUGE imports seconds of libraries, and a run starts a dozen times here.
    tree["stages"][2:4] = [
        {"type": "score", "metrics": ["chrf", "correct"]},
        {"type": "fuse", "fusers": [{"type": "genfuser", "expert": "good"}], "shard_size": 4},
        {"type": "evaluate", "primary_long": "chrf", "faithfulness": None},
    ]
    return tree


def _files(folder: Path) -> int:
    return sum(path.suffix in (".parquet", ".json", ".csv") for path in folder.rglob("*"))


def _heed_ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start_and_stop(command: list, environment: dict, run: Path, files: int, number: int) -> bool:
    """Start a run and signal it as soon as ``files`` files are there; whether it was cut off."""
    process = subprocess.Popen(command, env=environment, preexec_fn=_heed_ctrl_c)
    while process.poll() is None and _files(run) < files:
        time.sleep(0.002)
    if process.poll() is None:
        process.send_signal(number)
    return process.wait() != 0


def test_killed_run_equals_an_uninterrupted_one(recipe_tree, save_recipe, tmp_path) -> None:
    path = save_recipe(_slow_recipe(recipe_tree))
    runs = tmp_path / "runs"
    environment = os.environ | {"BLENDER_MED_CACHE": str(tmp_path / "first-cache")}
    subprocess.run([*COMMAND, path, "-q", "--set", "name=whole"], env=environment, check=True)
    total = _files(runs / "whole")

    environment["BLENDER_MED_CACHE"] = str(tmp_path / "second-cache")
    command = [*COMMAND, path, "-q", "--set", "name=killed"]
    points = sorted(random.Random(17).sample(range(1, total), 7))
    signals = [signal.SIGKILL, signal.SIGINT] * 3 + [signal.SIGKILL]
    cut = Counter(
        number
        for point, number in zip(points, signals, strict=True)
        if _start_and_stop(command, environment, runs / "killed", point, number)
    )
    assert cut[signal.SIGKILL] >= 3, "the signals came too late to test anything"
    assert cut[signal.SIGINT] >= 2, "the signals came too late to test anything"
    subprocess.run(command, env=environment, check=True)

    assert _shards(runs / "killed") == _shards(runs / "whole")
    assert _tables(runs / "killed") == _tables(runs / "whole")
    assert not list((runs / "killed").rglob("*.tmp"))
