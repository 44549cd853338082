"""A job that makes a model, from start to end: fit, choose the best weights, write its folder."""

from __future__ import annotations

import errno
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from blender_med.errors import ConfigError, StoreError, shorten
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
from blender_med.training.config import TrainingSettings
from blender_med.training.examples import TrainingExamples
from blender_med.training.processes import from_first, is_first, wait_for_all

Advance = Callable[[int], None]
Log = Sequence[Mapping[str, Any]]

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# How torch.save fails: it raises no OSError.
_TORCH_WRITER = re.compile("PytorchStreamWriter|unexpected pos|iostream error")


class Task(ABC):
    """A job that makes a model in a folder of its own.

    Class attributes:
        kind: What is made; part of the fingerprint.

    Args:
        name: Of the job.
    """

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything but the data that decides what is made; loads no model."""

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Hash of the data by the part they have in the job."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Number of questions by the part they have in the job."""

    @abstractmethod
    def steps(self) -> int:
        """Steps of progress that the job takes at most."""

    @abstractmethod
    def make(self, folder: Path, advance: Advance) -> None:
        """Write the model; goes on where a killed process was. Every process comes here."""


class TrainingTask(Task):
    """What one kind of model adds to a training job.

    Class attributes:
        gathers: Whether its trainer measures weights that are spread over processes.

    Args:
        name: Of the job.
        seed: Of the job.
        settings: Of the job.
        metric: Name under which the measurement is logged that chooses the weights.
        examples: What is learned from.
    """

    gathers: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        seed: int,
        settings: TrainingSettings,
        metric: str,
        examples: TrainingExamples[Any],
    ) -> None:
        super().__init__(name)
        self.seed, self.patience, self._settings = seed, settings.patience, settings
        self.metric, self.examples = metric, examples

    def inputs(self) -> dict[str, str]:
        """Hash of the examples."""
        return {"examples": self.examples.content_sha256()}

    def counts(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": len(self.examples.train), "dev": len(self.examples.dev)}

    def steps(self) -> int:
        """Optimiser steps of a training that is not stopped early."""
        return self._settings.total_steps(len(self.examples.train))

    def make(self, folder: Path, advance: Advance) -> None:
        """Optimise, then write the best weights; the first process alone writes."""
        _fit(self, folder, advance)
        if is_first():
            _finish(self, folder)

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
    task: Task, folder: Path, *, force: bool = False, advance: Advance = lambda steps: None
) -> bool:
    """Bring a model's folder up to date: skip, continue after a kill, or make it.

    Of several processes the first alone writes the folder.

    Args:
        task: What is made, and of what.
        folder: Where the model is written; what an earlier job wrote there is replaced.
        force: Make it anew even where the folder is up to date.
        advance: Called with optimiser steps as they are done.

    Returns:
        Whether anything was made.

    Raises:
        ConfigError: The folder holds something else, or the backbone is not to be found.
        DataError: The backbone's weights are damaged, or the loss is not finite.
        StoreError: The disk is full.
    """
    identity, inputs = task.identity(), task.inputs()
    current = fingerprint(task.kind, identity, inputs)
    if not from_first(lambda: _start(task.name, folder, current, force=force)):
        return False
    started = time.perf_counter()
    with _writing(folder):
        task.make(folder, advance)
    if is_first():
        remove_unfinished(folder)
        write_manifest(folder, _manifest(task, folder, current, identity, inputs, started))
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return True


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what is wrong where weights or the state of an optimiser cannot be written.

    Raises:
        StoreError: So it is, such as on a full disk.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "while serializing" not in str(error):  # a damaged file that was read
            raise
        raise _unwritten(folder, error) from error
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise _unwritten(folder, error) from error
    except RuntimeError as error:
        if not _TORCH_WRITER.search(str(error)):
            raise
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: Exception) -> StoreError:
    fix = "free disk space or write to another output_dir; training goes on at its last checkpoint"
    return StoreError(f"the model cannot be written: {shorten(str(error))}", file=folder, fix=fix)


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
    task: Task,
    folder: Path,
    current: str,
    identity: dict[str, Any],
    inputs: dict[str, str],
    started: float,
) -> Manifest:
    counts = task.counts()
    return Manifest(
        stage=task.kind,
        fingerprint=current,
        identity=identity,
        inputs=inputs,
        parts=counts,
        rows=sum(counts.values()),
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
    check_launcher(trainer, gathers=task.gathers)
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
