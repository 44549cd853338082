"""What a worker on a cluster does: it makes the shards of the units that it is handed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blender_med import __version__, errors
from blender_med.errors import BlenderMedError, StoreError
from blender_med.stages.base import Run, Unit
from blender_med.stages.config import STAGES
from blender_med.stages.lanes import DividedStage, Work
from blender_med.store.files import explained_writes
from blender_med.store.manifest import read_progress
from blender_med.store.shards import part_path, write_part

Rows = dict[str, list[str]]
_MOST_TRIES = 5


@dataclass(frozen=True)
class Job:
    """A lane of a stage, as it is sent to a worker.

    Attributes:
        run: With an absolute folder and without questions; every worker reads them itself.
        stage: Name of the stage.
        serves: Of the lane.
        working_folder: To which relative paths of the recipe belong.
        version: Of this package where the run was started.
    """

    run: Run
    stage: str
    serves: tuple[str, ...]
    working_folder: str
    version: str


def job_of(stage: DividedStage, serves: Sequence[str]) -> Job:
    """The job of a lane."""
    run = replace(stage.run, folder=stage.run.folder.absolute(), notes=[])
    return Job(run, stage.name, tuple(serves), str(Path.cwd()), __version__)


class UnitWorker:
    """Does units of one job; loads what they need with the first one and keeps it.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._opened = ExitStack()
        self._work: tuple[DividedStage, Work] | None = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> Rows:
        """Write the shards of some units.

        Args:
            batch: Columns ``unit`` (names) and ``size``.

        Returns:
            Columns ``unit``, ``error`` ("" or the message as :func:`described` gives it) and
            ``notes`` (JSON list).
        """
        units = [Unit(str(n), int(s)) for n, s in zip(batch["unit"], batch["size"], strict=True)]
        messages = [self._do(unit) for unit in units]
        notes = json.dumps(self._job.run.notes)
        return {
            "unit": [unit.name for unit in units],
            "error": messages,
            "notes": [notes] * len(units),
        }

    def _do(self, unit: Unit) -> str:
        try:
            stage, work = self._work = self._work or self._open()
            assert stage.writes is not None
            with _counted(stage.folder, unit.name):
                records = work(unit, lambda share: None)
                write_part(part_path(stage.folder, unit.name), records, stage.writes)
        except BlenderMedError as error:
            return described(error)
        return ""

    def _open(self) -> tuple[DividedStage, Work]:
        job = self._job
        _check_place(job)
        os.chdir(job.working_folder)
        stage: DividedStage = STAGES.load(job.stage)(job.run.recipe.stage(job.stage), job.run)
        return stage, self._opened.enter_context(stage.worker(job.serves))


@contextmanager
def _counted(folder: Path, unit: str) -> Iterator[None]:
    """Count how often a unit is begun; Ray would give it to ever new workers.

    Raises:
        StoreError: It has been begun, and never ended, too often.
    """
    tries = folder / f".{unit}.tries.tmp"
    with explained_writes(tries), tries.open("ab") as file:
        file.write(b".")
        count = file.tell()
    if count > _MOST_TRIES:
        problem = f"unit {unit} has cost {_MOST_TRIES} workers their lives"
        fix = "see the logs of the nodes; memory may run out: lower shard_size or batch sizes"
        raise StoreError(problem, file=folder, fix=fix)
    yield
    tries.unlink(missing_ok=True)


def _check_place(job: Job) -> None:
    """Check that this node has the same files and the same code.

    Raises:
        StoreError: It has not.
    """
    node = socket.gethostname()
    if job.version != __version__:
        problem = f"node {node} has blender-med {__version__}, the run was started by {job.version}"
        raise StoreError(problem, fix="install the same version on every node")
    folder = job.run.stage_folder(job.stage)
    seen = read_progress(folder) is not None and Path(job.working_folder).is_dir()
    if not seen:
        problem = f"node {node} does not see this run"
        fix = "put output_dir on a file system that every node mounts at the same path"
        raise StoreError(problem, file=folder, fix=fix)


def described(error: BlenderMedError) -> str:
    """An error as text that :func:`restored` reads."""
    names = ("problem", "fix", "key", "file", "row", "value")
    fields = {name: getattr(error, name) for name in names if getattr(error, name) is not None}
    return json.dumps({"type": type(error).__name__} | fields, default=str)


def restored(text: str) -> BlenderMedError:
    """The error that :func:`described` has written."""
    fields = json.loads(text)
    kind: type[BlenderMedError] = getattr(errors, fields.pop("type"), BlenderMedError)
    return kind(fields.pop("problem"), **fields)
