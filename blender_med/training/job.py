"""A training job from start to end: fit, choose the best weights, write the ranker's folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.rankers import RANKERS
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
from blender_med.training.config import RankerJob
from blender_med.training.examples import TrainingExamples
from blender_med.training.precision import resolved_precision

_KIND = "ranker"


def job_identity(job: RankerJob) -> dict[str, Any]:
    """Everything but the data that decides what a job makes; imports torch, loads no model."""
    return {
        "job": result_fields(job),
        "backbone": weights_revision(job.ranker.backbone, job.ranker.revision),
        "precision": resolved_precision(job.training.precision),
    }


def is_trained(folder: Path, current: str) -> bool:
    """Whether a folder holds the whole ranker of this fingerprint."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.fingerprint == current
        and all((folder / name).is_file() for name in manifest.files)
    )


def train_ranker(
    job: RankerJob,
    examples: TrainingExamples,
    folder: Path,
    *,
    force: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> bool:
    """Bring a ranker's folder up to date: skip, continue after a kill, or train.

    Args:
        job: The recipe.
        examples: What it learns from.
        folder: Where the ranker is written; what an earlier job wrote there is replaced.
        force: Train anew even where the folder is up to date.
        advance: Called with optimiser steps as they are done.

    Returns:
        Whether anything was trained.

    Raises:
        ConfigError: The folder holds something else, or the backbone is not to be found.
        DataError: The backbone's weights are damaged, or the loss is not finite.
    """
    identity = job_identity(job)
    inputs = {"examples": examples.content_sha256()}
    current = fingerprint(_KIND, identity, inputs)
    if not force and is_trained(folder, current):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return False
    progress = read_progress(folder)
    if force or progress is None or progress.fingerprint != current:
        clear_folder(folder)
        write_progress(folder, Progress(fingerprint=current, units=[job.name]))
    started = time.perf_counter()
    _fit(job, examples, folder, identity["precision"], advance)
    _finish(job, examples, folder)
    remove_unfinished(folder)
    write_manifest(
        folder,
        Manifest(
            stage=_KIND,
            fingerprint=current,
            identity=identity,
            inputs=inputs,
            parts={"train": len(examples.train), "dev": len(examples.dev)},
            rows=len(examples.train) + len(examples.dev),
            files=sorted(path.name for path in _contents(folder) if path.is_file()),
            seconds=time.perf_counter() - started,
            finished=timestamp(),
            provenance=provenance(),
        ),
    )
    shutil.rmtree(folder / CHECKPOINTS)
    return True


def clear_folder(folder: Path) -> None:
    """Remove what an earlier job left in a ranker's folder.

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
    """Files and folders of a ranker, without those that say who works on it and how far it is."""
    return [p for p in folder.glob("*") if p.name not in (LOCK, "progress.json")]


def _fit(
    job: RankerJob,
    examples: TrainingExamples,
    folder: Path,
    precision: Any,
    advance: Callable[[int], None],
) -> None:
    """Optimise until the epochs or the patience are at their end, from the last checkpoint on."""
    last = checkpoints.last_complete(folder / CHECKPOINTS)
    if last is not None and checkpoints.is_final(last, job.training.patience):
        return
    from transformers import set_seed

    from blender_med.models import quiet
    from blender_med.training.trainer import build_trainer

    set_seed(job.seed)
    ranker = job.ranker.build(len(job.labels))
    trainer = build_trainer(job, ranker, examples, folder, precision, advance)
    with quiet():
        trainer.train(resume_from_checkpoint=None if last is None else str(last))


def _finish(job: RankerJob, examples: TrainingExamples, folder: Path) -> None:
    """Write the best weights, the log and the model card."""
    from blender_med.models import quiet, torch_device
    from blender_med.training.callbacks import write_log
    from blender_med.training.card import write_card
    from blender_med.training.evaluation import dev_figures

    last = checkpoints.last_complete(folder / CHECKPOINTS)
    assert last is not None
    log = checkpoints.logged(last)
    best = checkpoints.best_step(log)
    assert best is not None
    source = checkpoints.checkpoint_path(folder / CHECKPOINTS, best)
    ranker = RANKERS.load(job.ranker.type).from_pretrained(source, device=torch_device(None))
    figures: Mapping[str, float] = dev_figures(ranker, examples.dev)
    with quiet():
        ranker.save_pretrained(folder)
    write_log(folder / LOG, log)
    write_card(folder / "README.md", job, examples, figures, best_step=best, log=log)
