"""Checkpoints of an unfinished training job, and which of them can be continued from.

The Trainer writes a checkpoint file by file. A marker, written last, tells a whole one from one
that a kill cut off.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blender_med.store.files import read_json, write_text

# Folder of the checkpoints and file of the log, within the folder of what is trained.
CHECKPOINTS = "checkpoints"
LOG = "training.csv"

_MARKER = "complete"


def mark_complete(checkpoint: Path) -> None:
    """Record that every file of a checkpoint is written."""
    write_text(checkpoint / _MARKER, "")


def last_complete(folder: Path) -> Path | None:
    """The latest whole checkpoint; None where there is none. Parts of others are removed."""
    whole: list[Path] = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of):
        if (checkpoint / _MARKER).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return whole[-1] if whole else None


def step_of(checkpoint: Path) -> int:
    """Optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step}"


def logged(checkpoint: Path) -> list[dict[str, Any]]:
    """Rows of the training log up to a checkpoint, in order."""
    state = read_json(checkpoint / "trainer_state.json")
    return list(state["log_history"]) if isinstance(state, dict) else []


def is_final(checkpoint: Path, metric: str, patience: int | None) -> bool:
    """Whether training ended with this checkpoint, by its steps or by early stopping."""
    state = read_json(checkpoint / "trainer_state.json")
    done = isinstance(state, dict) and state["global_step"] >= state["max_steps"]
    return done or out_of_patience(logged(checkpoint), metric, patience)


def best_step(log: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    """Step with the highest value of a metric, the first of equals; None before any."""
    measured = [row for row in log if metric in row]
    return max(measured, key=lambda row: row[metric])["step"] if measured else None


def out_of_patience(log: Sequence[Mapping[str, Any]], metric: str, patience: int | None) -> bool:
    """Whether the last ``patience`` measurements brought no better one; None: never."""
    values = [row[metric] for row in log if metric in row]
    if patience is None or not values:
        return False
    return len(values) - 1 - values.index(max(values)) >= patience
