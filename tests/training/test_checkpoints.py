"""Which checkpoint a job continues from, and when it is at its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from blender_med.training.callbacks import write_log
from blender_med.training.checkpoints import (
    best_step,
    is_final,
    last_complete,
    mark_complete,
    out_of_patience,
)
from blender_med.training.evaluation import ACCURACY


def _log(*accuracies: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, accuracy in enumerate(accuracies, start=1):
        rows += [{"step": 10 * number, "loss": 0.5}, {"step": 10 * number, ACCURACY: accuracy}]
    return rows


def _checkpoint(folder: Path, step: int, *, whole: bool, **state: Any) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    tree = {"global_step": step, "max_steps": 100, "log_history": []} | state
    (checkpoint / "trainer_state.json").write_text(json.dumps(tree))
    if whole:
        mark_complete(checkpoint)
    return checkpoint


def test_the_last_whole_checkpoint_counts_and_torn_ones_are_removed(tmp_path) -> None:
    assert last_complete(tmp_path / "none") is None
    _checkpoint(tmp_path, 9, whole=True)
    newest = _checkpoint(tmp_path, 10, whole=True)
    torn = _checkpoint(tmp_path, 20, whole=False)
    assert last_complete(tmp_path) == newest
    assert not torn.exists()


@pytest.mark.parametrize(
    ("accuracies", "patience", "stops"),
    [
        ((0.5,), 1, False),
        ((0.5, 0.6), 1, False),
        ((0.5, 0.5), 1, True),
        ((0.6, 0.5, 0.55), 3, False),
        ((0.6, 0.5, 0.55, 0.6), 3, True),
        ((0.6, 0.5, 0.4), None, False),
        ((), 1, False),
    ],
)
def test_patience_counts_measurements_since_the_first_best(accuracies, patience, stops) -> None:
    assert out_of_patience(_log(*accuracies), ACCURACY, patience) == stops


def test_the_best_step_is_the_first_of_equals() -> None:
    assert best_step(_log(0.5, 0.7, 0.6, 0.7), ACCURACY) == 20
    assert best_step([{"step": 1, "loss": 0.1}], ACCURACY) is None


def test_training_is_over_by_steps_or_by_patience(tmp_path) -> None:
    assert is_final(_checkpoint(tmp_path, 100, whole=True), ACCURACY, None)
    running = _checkpoint(tmp_path, 50, whole=True, log_history=_log(0.6, 0.5))
    assert not is_final(running, ACCURACY, 2)
    assert is_final(running, ACCURACY, 1)


def test_the_log_has_one_row_for_each_step_or_measurement(tmp_path) -> None:
    file = tmp_path / "training.csv"
    summary = {"step": 20, "epoch": 2.0, "train_loss": 0.4, "total_flos": 1.0}
    measured = {"step": 10, "epoch": 1.0, ACCURACY: 0.75}
    loss = {"step": 10, "epoch": 1.0, "loss": 0.5, "learning_rate": 1e-3, "grad_norm": 2.0}
    write_log(file, [loss, measured, summary], ACCURACY)
    assert file.read_bytes().decode().split("\r\n") == [
        "step,epoch,loss,learning_rate,grad_norm,eval_pairwise_accuracy",
        "10,1.0,0.5,0.001,2.0,",
        "10,1.0,,,,0.75",
        "",
    ]
