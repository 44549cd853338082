"""Logs a run to experiment trackers: TensorBoard, MLflow, Weights & Biases.

What is logged is the same everywhere: the recipe, rows and seconds of each stage, and the mean of
every metric of every method, named ``data set/split/task/protocol/method/metric``. MLflow and W&B
find their server and their key in the environment, as they always do.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from blender_med.errors import MissingDependencyError
from blender_med.reports.columns import BLOCK_COLUMNS
from blender_med.stages.base import Run
from blender_med.stages.runner import StagePlan
from blender_med.store.manifest import read_manifest

_PROJECT = "blender-med"
_NO_METRIC = {*BLOCK_COLUMNS, "method", "note"}
_UNSAFE = re.compile(r"[^\w./ -]")


class Backend(Protocol):
    """One tracker with an open run."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log numbers by name, once each."""
        ...

    def close(self, *, failed: bool) -> None:
        """End the run."""
        ...


class Tracker:
    """Tells every tracker of a recipe what became of each stage."""

    def __init__(self, run: Run, backends: list[Backend]) -> None:
        self._run, self._backends = run, backends

    def stage_ended(self, plan: StagePlan) -> None:
        """Log a stage that is up to date; after ``report`` the metrics of the methods."""
        folder = self._run.stage_folder(plan.name)
        manifest = read_manifest(folder) if self._backends else None
        if manifest is None:
            return
        metrics = {f"stage/{plan.name}/rows": float(manifest.rows)}
        metrics[f"stage/{plan.name}/seconds"] = manifest.seconds
        if plan.name == "report":
            metrics |= method_metrics(folder / "methods.csv")
        for backend in self._backends:
            backend.log(metrics)


@contextmanager
def track(run: Run) -> Iterator[Tracker]:
    """Open the trackers that ``log_to`` names, and end them with the run.

    Raises:
        MissingDependencyError: One is not installed.
    """
    names = run.recipe.log_to
    for name in names:
        _check_installed(name)
    with ExitStack() as stack:
        yield Tracker(run, [stack.enter_context(_opened(name, run)) for name in names])


@contextmanager
def _opened(name: str, run: Run) -> Iterator[Backend]:
    backend = _BACKENDS[name](run)
    try:
        yield backend
    except BaseException:
        backend.close(failed=True)
        raise
    backend.close(failed=False)


def _check_installed(name: str) -> None:
    if find_spec(name) is None:
        problem, fix = f"{name} is not installed", f"pip install {name}, or take it out of log_to"
        raise MissingDependencyError(problem, key="log_to", value=name, fix=fix)


def method_metrics(table: Path) -> dict[str, float]:
    """Numbers of ``methods.csv`` by name; intervals and tests stay in the table."""
    found = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            prefix = "/".join(row[name] for name in (*BLOCK_COLUMNS, "method"))
            for name in _figures(row):
                found[_UNSAFE.sub("_", f"{prefix}/{name}")] = float(row[name])
    return found


def _figures(row: Mapping[str, str]) -> Iterator[str]:
    shared = re.compile(r"_(low|high|delta|p|p_holm)$")
    return (n for n, cell in row.items() if cell and n not in _NO_METRIC and not shared.search(n))


def settings(run: Run) -> dict[str, Any]:
    """The recipe and the experts as plain data; neither can hold a key or a password."""
    experts = {e.name: e.model_dump(mode="json", exclude_unset=True) for e in run.experts}
    return {"recipe": run.recipe.model_dump(mode="json", exclude_unset=True), "experts": experts}


class TensorBoard:
    """Event files in ``RUN/tensorboard``."""

    def __init__(self, run: Run) -> None:
        from tensorboard.summary import Writer

        self._writer: Any = Writer(str(run.folder / "tensorboard"))

    def log(self, metrics: Mapping[str, float]) -> None:
        """One scalar each, at step 0."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, 0)

    def close(self, *, failed: bool) -> None:
        """Flush."""
        self._writer.close()


class MLflow:
    """A run of the experiment ``blender-med`` on the server of ``MLFLOW_TRACKING_URI``."""

    def __init__(self, run: Run) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        mlflow.set_experiment(_PROJECT)
        mlflow.start_run(run_name=run.recipe.name)
        mlflow.log_dict(settings(run), "recipe.json")

    def log(self, metrics: Mapping[str, float]) -> None:
        """All in one call."""
        self._mlflow.log_metrics(dict(metrics))

    def close(self, *, failed: bool) -> None:
        """End it as finished or failed."""
        self._mlflow.end_run(status="FAILED" if failed else "FINISHED")


class WandB:
    """A run of the project ``blender-med``."""

    def __init__(self, run: Run) -> None:
        import wandb

        config = json.loads(json.dumps(settings(run)))
        self._run: Any = wandb.init(project=_PROJECT, name=run.recipe.name, config=config)

    def log(self, metrics: Mapping[str, float]) -> None:
        """All in one step."""
        self._run.log(dict(metrics))

    def close(self, *, failed: bool) -> None:
        """End it with the exit code."""
        self._run.finish(exit_code=int(failed))


_BACKENDS: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
