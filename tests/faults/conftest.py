"""A quickstart-shaped study with fake experts, how it runs, and what it gives undisturbed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

STAGES = ("prepare", "generate", "score", "rank", "fuse", "evaluate")
RECIPE: dict[str, Any] = {
    "name": "whole",
    "dataset": {"type": "sample", "limit": 40},
    "experts": [
        {
            "name": name,
            "engine": "fake",
            "engine_options": {"accuracy": accuracy, "seconds_per_request": 0.005},
        }
        for name, accuracy in (("good", 0.8), ("poor", 0.3))
    ],
    # ROUGE imports seconds of libraries, and the study starts dozens of times here.
    "stages": [
        {"type": "prepare", "splits": {"dev": 0.33, "test": 0.67}, "shard_size": 16},
        {
            "type": "generate",
            "shard_size": 8,
            "long": {"samples": 2, "sampling": {"temperature": 0.7, "max_tokens": 48}},
        },
        {"type": "score", "metrics": ["chrf", "correct"]},
        {"type": "rank", "rankers": ["bm25"], "shard_size": 8},
        {"type": "fuse", "fusers": ["concatenation"], "shard_size": 8},
        {"type": "evaluate", "primary_long": "chrf", "faithfulness": None},
        {"type": "report", "resamples": 200, "page": False},
    ],
}


def _heed_ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Study:
    """The recipe in ``folder``; every run is a process of its own, and each has its own name."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "study.yaml"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def command(self, name: str, *arguments: str) -> list[str]:
        start = [sys.executable, "-m", "blender_med", "run", str(self.recipe), "-q"]
        return [*start, "--set", f"name={name}", *arguments]

    def run(self, name: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        command = self.command(name, *arguments)
        return subprocess.run(command, capture_output=True, text=True, **settings)

    def start(self, name: str, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        command = self.command(name, *arguments)
        return subprocess.Popen(command, text=True, preexec_fn=_heed_ctrl_c, **settings)

    def stop(self, name: str, files: int, number: int, delay: float = 0.0) -> bool:
        """Start a run, signal it once it has that many files; whether it was cut off."""
        process = self.start(name)
        while process.poll() is None and self.files(name) < files:
            time.sleep(0.005)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(number)
        return process.wait() != 0

    def files(self, name: str | Path) -> int:
        """How many files of results a run has by now."""
        found = (self.runs / name).rglob("*")
        return sum(path.suffix in (".parquet", ".json", ".csv") for path in found)

    def results(self, run: Path) -> dict[str, Any]:
        """Every shard and table of a run without its ``seconds``."""
        return shards(run) | tables(run)


def shards(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stage in STAGES:
        for path in sorted((run / stage).glob("part-*.parquet")):
            table = pq.read_table(path)
            keep = [name for name in table.column_names if name != "seconds"]
            found[f"{stage}/{path.name}"] = table.select(keep).to_pylist()
    return found


def tables(run: Path) -> dict[str, Any]:
    found = {}
    for path in sorted((run / "report").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found[path.name] = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    return found


def save(folder: Path, **changes: Any) -> Study:
    """A study in ``folder``; ``changes`` replace keys of its recipe."""
    tree = json.loads(json.dumps(RECIPE)) | {"output_dir": str(folder / "runs")} | changes
    study = Study(folder)
    study.recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The study, not run yet."""
    return save(tmp_path)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Study]:
    """Makes a study with some keys of the recipe replaced."""
    return lambda **changes: save(tmp_path, **changes)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of the study without any trouble; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole = save(folder)
    environment = os.environ | {"BLENDER_MED_CACHE": str(folder / "cache")}
    assert whole.run("whole", env=environment).returncode == 0
    assert {"methods.csv", "ranking.csv"} <= set(tables(whole.runs / "whole"))
    return whole.runs / "whole"


@pytest.fixture
def finished(study: Study, undisturbed: Path) -> Path:
    """A finished run of the study that may be damaged."""
    return Path(shutil.copytree(undisturbed, study.runs / "whole"))


@pytest.fixture
def one_message() -> Callable[[subprocess.CompletedProcess[str]], str]:
    """Checks that a run stopped with one clear message; returns it."""

    def check(done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("error: ") == done.stderr.count("Fix: ") == 1, done.stderr
        return done.stderr

    return check
