"""What happens beside the optimisation: early stopping, checkpoint markers, log, progress."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from blender_med.errors import DataError
from blender_med.store.files import atomic_path
from blender_med.training.checkpoints import checkpoint_path, mark_complete, out_of_patience
from blender_med.training.processes import is_first, wait_for_all

logger = logging.getLogger(__name__)

WEIGHT = "eval_weight_"  # of an expert, in the log: what a gate gives it on dev

_LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm")


class EarlyStopping(TrainerCallback):
    """Ends training after ``patience`` measurements of ``metric`` without a better one.

    It reads the log alone, so a resumed run stops where an uninterrupted one does.
    """

    def __init__(self, metric: str, patience: int | None) -> None:
        self._metric, self._patience = metric, patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where the patience is at its end."""
        if out_of_patience(state.log_history, self._metric, self._patience):
            control.should_training_stop = True


class DivergenceCheck(TrainerCallback):
    """Ends training with an error once a loss or a weight is NaN or infinite."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the weights before they are measured, and have the loss logged then.

        Raises:
            DataError: A weight is not finite.
        """
        control.should_log |= control.should_evaluate
        if control.should_evaluate and not _is_finite(kwargs["model"]):
            raise _diverged("a weight", state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the loss that was just logged.

        Raises:
            DataError: It is not finite.
        """
        if not math.isfinite(state.log_history[-1].get("loss", 0.0)):
            raise _diverged("the loss", state.global_step)


def _is_finite(model: Any) -> bool:
    return all(bool(weights.isfinite().all()) for weights in model.parameters())


def _diverged(what: str, step: int) -> DataError:
    fix = "lower training.learning_rate or training.max_grad_norm, or set precision: float32"
    return DataError(f"{what} is not finite after step {step}", fix=fix)


class CheckpointMarker(TrainerCallback):
    """Marks a checkpoint whole once all of it is written, and keeps the log beside it.

    Args:
        folder: Of the checkpoints.
        log_file: Of the log.
        metric: What the log measures.
    """

    def __init__(self, folder: Path, log_file: Path, metric: str) -> None:
        self._folder, self._log_file, self._metric = folder, log_file, metric

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the log and the marker; every process has a part of the checkpoint to write."""
        wait_for_all()
        if is_first():
            write_log(self._log_file, state.log_history, self._metric)
            mark_complete(checkpoint_path(self._folder, state.global_step))


class ProgressReport(TrainerCallback):
    """Reports steps as they are done, and every measurement in the run's log."""

    def __init__(self, name: str, metric: str, advance: Callable[[int], None]) -> None:
        self._name, self._metric, self._advance = name, metric, advance
        self._done = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the steps that were done before an interruption."""
        self._reach(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count one step."""
        self._reach(state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how good the model is by now."""
        name, value = self._metric.removeprefix("eval_"), state.log_history[-1][self._metric]
        message = "%s: step %d of %d, dev %s %.3f"
        logger.info(message, self._name, state.global_step, state.max_steps, name, value)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the steps that early stopping saved."""
        self._reach(state.max_steps)

    def _reach(self, step: int) -> None:
        self._advance(step - self._done)
        self._done = step


def write_log(file: Path, log: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Write the training log: one row for each logged step or measurement, numbers only.

    Columns: step, epoch, loss (mean since the row before), learning_rate, grad_norm, the dev
    metric, and the mean weights of a gate. The summary that ends a log has neither loss nor
    metric and is left out.
    """
    rows = [row for row in log if "loss" in row or metric in row]
    weights = dict.fromkeys(name for row in rows for name in row if name.startswith(WEIGHT))
    with (
        atomic_path(file) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.DictWriter(
            stream,
            (*_LOG_COLUMNS, metric, *weights),
            extrasaction="ignore",
            lineterminator="\r\n",
        )
        writer.writeheader()
        writer.writerows(rows)
