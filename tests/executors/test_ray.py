"""The Ray executor on a real cluster of two nodes on loopback, against the local executor."""

from __future__ import annotations

import copy
import csv
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blender_med.errors import ExpertError
from blender_med.executors import open_executor
from blender_med.executors.progress import ProgressDisplay
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline

# Ray reads them when it is imported: no node listens beyond loopback.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
ray = pytest.importorskip("ray")
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
QUICK = ("prepare", "generate", "score", "evaluate", "report")
WHOLE = ("prepare", "generate", "score", "rank", "fuse", "embed", "evaluate", "report")


class Nodes:
    """A cluster of two nodes with one core each; everything listens on loopback alone."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._settings = {
            "num_cpus": 1,
            "object_store_memory": 80 * 1024**2,
            "include_dashboard": False,
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=self._settings)
        self.second = self.cluster.add_node(**self._settings)
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def processes(self) -> list[psutil.Process]:
        """Every process of the cluster."""
        roots = [
            started.process.pid
            for node in self.cluster.list_all_nodes()
            for own in node.all_processes.values()
            for started in own
        ]
        found = [psutil.Process(pid) for pid in roots if psutil.pid_exists(pid)]
        return found + [child for root in found for child in root.children(recursive=True)]

    def workers(self) -> list[int]:
        """Process ids of the workers that make shards."""
        return [p.pid for p in self.processes() if "UnitWorker" in " ".join(p.cmdline())]


@contextmanager
def started() -> Iterator[Nodes]:
    """A cluster with a folder of its own for as long as it is needed."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        nodes = Nodes()
        yield nodes
        nodes.cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster that no test damages."""
    with started() as running:
        yield running


@pytest.fixture
def fragile() -> Iterator[Nodes]:
    """A cluster for one test."""
    with started() as running:
        yield running


def tree_of(recipe_tree: dict[str, Any], stages: tuple[str, ...], seconds: float = 0.0) -> Any:
    tree = copy.deepcopy(recipe_tree)
    for expert in tree["experts"]:
        expert["engine_options"]["seconds_per_request"] = seconds
    known = {s if isinstance(s, str) else s["type"]: s for s in tree["stages"]}
    known["generate"] |= {"shard_size": 5, "cache": False}
    known["score"] = {"type": "score", "metrics": ["chrf", "correct"]}
    known["rank"] = {"type": "rank", "rankers": ["bm25"], "shard_size": 7}
    fusers = [
        {"type": "concatenation", "guard": "ranker"},
        {"type": "aggregate", "expert": "good", "decoding": {"max_new_tokens": 16}},
    ]
    known["fuse"] = {"type": "fuse", "fusers": fusers, "shard_size": 7}
    known["embed"] = {"type": "embed", "question_encoder": None, "shard_size": 9}
    known["evaluate"] = {"type": "evaluate", "primary_long": "chrf", "faithfulness": None}
    return tree | {"stages": [known[name] for name in stages]}


@pytest.fixture
def go(save_recipe: Callable[..., Path]) -> Callable[..., Run]:
    """Runs a pipeline with the executor of its recipe."""

    def run(tree: dict[str, Any], *overrides: str) -> Run:
        opened = open_recipe(save_recipe(tree), overrides)
        display = ProgressDisplay(Console(), quiet=True)
        with open_executor(opened, display) as executor:
            run_pipeline(opened, executor, Selection())
        return opened

    return run


def results(run: Run) -> dict[str, Any]:
    """Every shard and every table without its seconds, and every file of states."""
    found: dict[str, Any] = {}
    for path in sorted(run.folder.rglob("part-*")):
        name = str(path.relative_to(run.folder))
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            keep = [column for column in table.column_names if column != "seconds"]
            found[name] = table.select(keep).to_pylist()
        else:
            found[name] = path.read_bytes()
    for path in sorted(run.stage_folder("report").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found[path.name] = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    assert found["methods.csv"] and found["cost.csv"]
    return found


def on(nodes: Nodes) -> str:
    return f"executor={{type: ray, address: '{nodes.address}'}}"


def test_a_cluster_gives_the_tables_of_one_machine(nodes, recipe_tree, go) -> None:
    tree = tree_of(recipe_tree, QUICK)
    local = go(tree)
    spread = go(tree, "name=spread", on(nodes))
    assert results(spread) == results(local)
    assert spread.notes == local.notes


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses at which some of these processes wait for others."""
    found: set[str] = set()
    for process in processes:
        with suppress(psutil.Error):
            own = process.net_connections("inet")
            found |= {c.laddr.ip for c in own if c.status == psutil.CONN_LISTEN}
    return found


def test_nothing_listens_beyond_this_machine(nodes) -> None:
    addresses = listening(nodes.processes())
    assert addresses and addresses <= LOOPBACK


@pytest.mark.slow
def test_the_cluster_of_the_command_line_listens_on_loopback(recipe_tree, save_recipe) -> None:
    recipe = save_recipe(tree_of(recipe_tree, QUICK, seconds=0.1))
    command = [sys.executable, "-m", "blender_med", "run", str(recipe), "--executor", "ray", "-q"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        process = psutil.Popen(command, env=kept | {"RAY_TMPDIR": folder, "HOME": folder})
        addresses: set[str] = set()
        while process.poll() is None:
            with suppress(psutil.Error):
                addresses |= listening(process.children(recursive=True))
            time.sleep(0.5)
    assert process.returncode == 0
    assert addresses and addresses <= LOOPBACK


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_error_of_one_machine(nodes, recipe_tree, go) -> None:
    tree = tree_of(recipe_tree, QUICK)
    tree["experts"][1]["engine_options"]["fail_after"] = 8
    with pytest.raises(ExpertError, match=r"'poor' failed after 8 requests.*fail_after$"):
        go(tree, on(nodes))


@pytest.mark.slow
def test_a_whole_study_gives_the_tables_of_one_machine(nodes, recipe_tree, go) -> None:
    tree = tree_of(recipe_tree, WHOLE) | {"dataset": {"type": "sample"}}
    local, spread = go(tree), go(tree, "name=spread", on(nodes))
    assert results(spread) == results(local)
    assert {"embed", "rank", "fuse"} <= {name.split("/")[0] for name in results(spread)}


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Does something in another thread as soon as a condition holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        action()

    started = threading.Thread(target=wait, daemon=True)
    started.start()
    return started


def shards(tree: dict[str, Any], name: str, stage: str) -> int:
    return len(list((Path(tree["output_dir"]) / name / stage).glob("part-*.parquet")))


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 6])
def test_a_killed_worker_costs_nothing(fragile, recipe_tree, go, at) -> None:
    tree = tree_of(recipe_tree, QUICK, seconds=0.2)
    killed: list[int] = []

    def kill() -> None:
        killed.append(fragile.workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    other = when(lambda: shards(tree, "spread", "generate") >= at and bool(fragile.workers()), kill)
    spread = go(tree, "name=spread", on(fragile))
    other.join(5)
    assert killed
    assert results(spread) == results(go(tree_of(recipe_tree, QUICK)))


@pytest.mark.slow
def test_a_lost_node_costs_nothing(fragile, recipe_tree, go) -> None:
    tree = tree_of(recipe_tree, WHOLE, seconds=0.2)

    def lose() -> None:
        fragile.cluster.remove_node(fragile.second, allow_graceful=False)

    other = when(lambda: shards(tree, "spread", "generate") >= 3, lose)
    spread = go(tree, "name=spread", on(fragile))
    other.join(30)
    assert not other.is_alive() and len(fragile.cluster.list_all_nodes()) == 1
    assert results(spread) == results(go(tree_of(recipe_tree, WHOLE)))


@pytest.mark.slow
def test_a_killed_worker_and_then_a_lost_node_cost_nothing(fragile, recipe_tree, go) -> None:
    tree = tree_of(recipe_tree, WHOLE, seconds=0.2)
    killed: list[int] = []

    def kill() -> None:
        killed.append(fragile.workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    def lose() -> None:
        fragile.cluster.remove_node(fragile.second, allow_graceful=False)

    first = when(lambda: shards(tree, "spread", "generate") >= 2 and bool(fragile.workers()), kill)
    then = when(lambda: shards(tree, "spread", "embed") >= 1, lose)
    spread = go(tree, "name=spread", on(fragile))
    first.join(5)
    then.join(30)
    assert killed and not then.is_alive() and len(fragile.cluster.list_all_nodes()) == 1
    assert results(spread) == results(go(tree_of(recipe_tree, WHOLE)))
