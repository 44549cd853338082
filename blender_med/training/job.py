"""A training job from start to end: fit, choose the best weights, write the model's folder."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from blender_med.errors import ConfigError
from blender_med.store.files import remove_unfinished
from blender_med.store.lock import LOCK
from blender_med.store.manifest import (
    Manifest,
    Progress,
    fingerprint,
    provenance,
    read_manifest,
    read_progress,
    timestamp,
    write_manifest,
    write_progress,
)
from blender_med.training import checkpoints
from blender_med.training.checkpoints import CHECKPOINTS, LOG
from blender_med.training.examples import TrainingExamples
from blender_med.training.processes import from_first, is_first, wait_for_all

Advance = Callable[[int], None]
Log = Sequence[Mapping[str, Any]]


class TrainingTask(ABC):
    """What one kind of model adds to a training job.

    Class attributes:
        kind: What is trained; part of the fingerprint.

    Args:
        name: Of the job.
        seed: Of the job.
        patience: Measurements without a better one before training ends; None: never.
        metric: Name under which the measurement is logged that chooses the weights.
        examples: What is learned from.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        seed: int,
        patience: int | None,
        metric: str,
        examples: TrainingExamples[Any],
    ) -> None:
        self.name, self.seed, self.patience = name, seed, patience
        self.metric, self.examples = metric, examples

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything but the data that decides what is made; loads no model."""

    @abstractmethod
    def trainer(self, folder: Path, advance: Advance) -> Any:
        """The Trainer of a folder, with the model to start from."""

    @abstractmethod
    def finish(self, checkpoint: Path, folder: Path, log: Log, best_step: int) -> None:
        """Write the model of a checkpoint and its card into ``folder``."""


def is_trained(folder: Path, current: str) -> bool:
    """Whether a folder holds the whole model of this fingerprint."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.fingerprint == current
        and all((folder / name).is_file() for name in manifest.files)
    )


def bring_up_to_date(
    task: TrainingTask, folder: Path, *, force: bool = False, advance: Advance = lambda steps: None
) -> bool:
    """Bring a model's folder up to date: skip, continue after a kill, or train.

    Of several processes the first alone writes the folder.

    Args:
        task: What is trained, and on what.
        folder: Where the model is written; what an earlier job wrote there is replaced.
        force: Train anew even where the folder is up to date.
        advance: Called with optimiser steps as they are done.

    Returns:
        Whether anything was trained.

    Raises:
        ConfigError: The folder holds something else, or the backbone is not to be found.
        DataError: The backbone's weights are damaged, or the loss is not finite.
    """
    identity = task.identity()
    inputs = {"examples": task.examples.content_sha256()}
    current = fingerprint(task.kind, identity, inputs)
    if not from_first(lambda: _start(task.name, folder, current, force=force)):
        return False
    started = time.perf_counter()
    _fit(task, folder, advance)
    if is_first():
        _finish(task, folder)
        remove_unfinished(folder)
        write_manifest(folder, _manifest(task, folder, current, identity, inputs, started))
        shutil.rmtree(folder / CHECKPOINTS)
    return True


def _start(name: str, folder: Path, current: str, *, force: bool) -> bool:
    """Make the folder ready to train in; False where it is up to date."""
    if not force and is_trained(folder, current):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return False
    progress = read_progress(folder)
    if force or progress is None or progress.fingerprint != current:
        clear_folder(folder)
        write_progress(folder, Progress(fingerprint=current, units=[name]))
    return True


def clear_folder(folder: Path) -> None:
    """Remove what an earlier job left in a model's folder.

    Raises:
        ConfigError: It holds files that no job of this kind has written.
    """
    contents = _contents(folder)
    if contents and read_progress(folder) is None and read_manifest(folder) is None:
        fix = "choose another name or output_dir, or empty the folder"
        raise ConfigError("the folder holds other files", key="output_dir", file=folder, fix=fix)
    for path in contents:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _contents(folder: Path) -> list[Path]:
    """Files and folders of a model, without those that say who works on it and how far it is."""
    return [p for p in folder.glob("*") if p.name not in (LOCK, "progress.json")]


def _manifest(
    task: TrainingTask,
    folder: Path,
    current: str,
    identity: dict[str, Any],
    inputs: dict[str, str],
    started: float,
) -> Manifest:
    train, dev = len(task.examples.train), len(task.examples.dev)
    return Manifest(
        stage=task.kind,
        fingerprint=current,
        identity=identity,
        inputs=inputs,
        parts={"train": train, "dev": dev},
        rows=train + dev,
        files=sorted(path.name for path in _contents(folder) if path.is_file()),
        seconds=time.perf_counter() - started,
        finished=timestamp(),
        provenance=provenance(),
    )


def _fit(task: TrainingTask, folder: Path, advance: Advance) -> None:
    """Optimise until the epochs or the patience are at their end, from the last checkpoint on."""
    last = from_first(lambda: checkpoints.last_complete(folder / CHECKPOINTS))
    if last is not None and checkpoints.is_final(last, task.metric, task.patience):
        return
    from transformers import PrinterCallback, set_seed

    from blender_med.models import quiet
    from blender_med.training.trainer import check_launcher

    set_seed(task.seed)
    trainer = task.trainer(folder, advance)
    check_launcher(trainer)
    trainer.remove_callback(PrinterCallback)
    with quiet():
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    wait_for_all()


def _finish(task: TrainingTask, folder: Path) -> None:
    """Write the best weights, the log and the model card."""
    from blender_med.training.callbacks import write_log

    last = checkpoints.last_complete(folder / CHECKPOINTS)
    assert last is not None
    log = checkpoints.logged(last)
    best = checkpoints.best_step(log, task.metric)
    assert best is not None
    task.finish(checkpoints.checkpoint_path(folder / CHECKPOINTS, best), folder, log, best)
    write_log(folder / LOG, log, task.metric)
