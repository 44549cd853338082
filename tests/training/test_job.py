"""A training job: what it writes, when it trains again, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from blender_med.errors import ConfigError, DataError, MissingDependencyError
from blender_med.rankers import RANKERS
from blender_med.store.manifest import read_manifest
from blender_med.training import job as job_module
from blender_med.training import trainer
from blender_med.training.evaluation import ACCURACY, dev_accuracy
from blender_med.training.ranker_job import train_ranker

from .conftest import toy_examples

TRAINABLE = ("pairranker", "simcls", "summareranker")


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_job_writes_a_ranker_that_loads_and_ranks(make_job, examples, tmp_path, kind) -> None:
    folder, steps = tmp_path / "toy", []
    assert train_ranker(make_job(kind), examples, folder, advance=steps.append)
    # 20 questions in steps of 8, twice.
    assert sum(steps) == 6
    ranker = RANKERS.load(kind).from_pretrained(folder)
    [ranked] = ranker.rank(["what causes fever ?"], [["good good", "bad bad", "cough"]])
    assert sorted(ranked.ranks) == [1, 2, 3]
    # Neither checkpoints nor pickles are left.
    names = {path.name for path in folder.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    assert "checkpoints" not in names


def test_the_log_has_losses_and_the_card_the_kept_measurement(make_job, examples, tmp_path) -> None:
    folder = tmp_path / "toy"
    train_ranker(make_job("pairranker"), examples, folder)
    losses = [row for row in _rows(folder) if row["loss"]]
    measured = [row for row in _rows(folder) if row[ACCURACY]]
    assert [int(row["step"]) for row in losses] == [1, 2, 3, 4, 5, 6]
    assert [int(row["step"]) for row in measured] == [2, 4, 6]
    card = (folder / "README.md").read_text()
    best = max(float(row[ACCURACY]) for row in measured)
    ranker = RANKERS.load("pairranker").from_pretrained(folder)
    assert dev_accuracy(ranker, examples.dev) == pytest.approx(best, abs=1e-6)
    assert f"| pairwise_accuracy | {best:.4f} |" in card
    assert "| train | 20 |" in card
    assert "Labels: value (higher is better). Source: toy task." in card
    front, recipe = card.split("---\n")[1], card.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert yaml.safe_load(recipe)["training"]["epochs"] == 2


def test_a_finished_job_is_skipped_until_something_changes(make_job, examples, tmp_path) -> None:
    folder = tmp_path / "toy"
    train_ranker(make_job(), examples, folder)
    before = read_manifest(folder)
    assert not train_ranker(make_job(), examples, folder)
    # How it is computed, logged and described changes no result.
    assert not train_ranker(make_job(micro_batch_size=8, logging_steps=3), examples, folder)
    assert read_manifest(folder) == before
    assert train_ranker(make_job(learning_rate=1e-4), examples, folder)
    assert train_ranker(make_job(learning_rate=1e-4), toy_examples(21, 6), folder)
    assert train_ranker(make_job(learning_rate=1e-4), toy_examples(21, 6), folder, force=True)
    (folder / "model.safetensors").unlink()
    assert train_ranker(make_job(learning_rate=1e-4), toy_examples(21, 6), folder)


def test_the_seed_decides_the_result(make_job, examples, tmp_path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(len(name))
        train_ranker(make_job("pairranker", seed=seed), examples, tmp_path / name)
    assert _weights(tmp_path / "first") == _weights(tmp_path / "again")
    assert _weights(tmp_path / "first") != _weights(tmp_path / "other")


@pytest.mark.parametrize("kind", ["pairranker", "simcls"])
def test_an_interrupted_job_ends_with_the_weights_of_an_undisturbed_one(
    make_job, examples, tmp_path, kind
) -> None:
    # Checkpoints after steps 1, 2, ... of 9; an epoch has 3 steps of two forward passes.
    job = make_job(kind, epochs=3, evaluate_every=0.3, warmup_ratio=0, patience=None)
    train_ranker(job, examples, tmp_path / "whole")
    for stop in (2, 5, 6):
        with pytest.raises(KeyboardInterrupt):
            train_ranker(job, examples, tmp_path / "cut", advance=_Interrupt(stop))
    steps: list[int] = []
    assert train_ranker(job, examples, tmp_path / "cut", advance=steps.append)
    # What was done before counts at once; the rest is done step by step.
    assert [step for step in steps if step] == [5, 1, 1, 1, 1]
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")


class _Interrupt:
    """Ctrl-C during a step."""

    def __init__(self, stop: int) -> None:
        self._left = stop

    def __call__(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise KeyboardInterrupt


def test_a_job_stopped_early_and_then_killed_does_not_train_on(
    make_job, examples, tmp_path, monkeypatch
) -> None:
    accuracies = iter([0.9, 0.1])
    monkeypatch.setattr(trainer, "dev_accuracy", lambda *given: next(accuracies))
    monkeypatch.setattr(job_module, "_finish", _killed)
    job = make_job(epochs=5, evaluate_every=1, patience=1)
    with pytest.raises(KeyboardInterrupt):
        train_ranker(job, examples, tmp_path)
    monkeypatch.undo()
    assert train_ranker(job, examples, tmp_path)
    assert [row["step"] for row in _rows(tmp_path) if row[ACCURACY]] == ["3", "6"]


def _killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_foreign_folder_is_not_touched(make_job, examples, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds other files"):
        train_ranker(make_job(), examples, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_training_stops_when_patience_is_out(make_job, examples, tmp_path, monkeypatch) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(trainer, "dev_accuracy", lambda *given: next(accuracies))
    job = make_job(epochs=5, evaluate_every=1, patience=2)
    train_ranker(job, examples, tmp_path / "toy")
    measured = [float(row[ACCURACY]) for row in _rows(tmp_path / "toy") if row[ACCURACY]]
    assert measured == [0.5, 0.7, 0.6, 0.7]
    assert "(step 6)" in (tmp_path / "toy" / "README.md").read_text()


def test_the_kept_weights_are_those_of_the_best_measurement(
    make_job, examples, tmp_path, monkeypatch
) -> None:
    kept = {}
    for name, accuracies in (("first", [0.9, 0.1]), ("last", [0.1, 0.9])):
        values = iter(accuracies)
        monkeypatch.setattr(trainer, "dev_accuracy", lambda *given, v=values: next(v))
        job = make_job(epochs=2, evaluate_every=1)
        train_ranker(job, examples, tmp_path / name)
        kept[name] = _weights(tmp_path / name)
    monkeypatch.undo()
    train_ranker(make_job(epochs=2, evaluate_every=2), examples, tmp_path / "whole")
    assert kept["last"] == _weights(tmp_path / "whole")
    assert kept["first"] != kept["last"]


@pytest.mark.parametrize("loss", ["instructgpt", "BCE", "MSE"])
@pytest.mark.parametrize("mode", ["all_pair", "top_bottom", "uniform", "random"])
def test_every_loss_and_sampling_mode_trains(make_job, examples, tmp_path, loss, mode) -> None:
    ranker = {"loss_type": loss, "sub_sampling_mode": mode}
    job = make_job("pairranker", ranker=ranker, epochs=1)
    train_ranker(job, examples, tmp_path)
    losses = [float(row["loss"]) for row in _rows(tmp_path) if row["loss"]]
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_the_binary_loss_refuses_labels_that_are_not_binary(make_job, examples, tmp_path) -> None:
    job = make_job("pairranker", ranker={"loss_type": "open_instruct_BCE"})
    with pytest.raises(DataError, match="labels 0 and 1"):
        train_ranker(job, examples, tmp_path)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_several_metrics_are_tasks(make_job, tmp_path, kind) -> None:
    job = make_job(kind, labels=("value", "fever"), epochs=1)
    train_ranker(job, toy_examples(12, 4, tasks=2), tmp_path)
    config = RANKERS.load(kind).from_pretrained(tmp_path).config
    assert getattr(config, "n_tasks", 2) == 2


@pytest.mark.parametrize("kind", TRAINABLE)
def test_checkpointed_gradients_give_the_same_losses(
    make_job, examples, tmp_path, kind, monkeypatch
) -> None:
    from transformers.models.bert.modeling_bert import BertIntermediate

    runs, forward = [0], BertIntermediate.forward

    def counted(self, states):
        runs[-1] += self.training
        return forward(self, states)

    monkeypatch.setattr(BertIntermediate, "forward", counted)
    for name, checkpointing in (("plain", False), ("saving", True)):
        runs.append(0)
        job = make_job(kind, gradient_checkpointing=checkpointing, epochs=1)
        train_ranker(job, examples, tmp_path / name)
    losses = [[row["loss"] for row in _rows(tmp_path / name)] for name in ("plain", "saving")]
    assert losses[0] == losses[1]
    # Every layer is run again for the backward pass.
    assert runs[2] == 2 * runs[1] > 0


def test_a_step_is_the_mean_over_its_micro_batches(make_job, tmp_path) -> None:
    """SimCLS without dropout: the gradient of 8 questions does not depend on how they are cut."""
    examples = toy_examples(8, 2)
    norms = []
    for size in (8, 2):
        folder = tmp_path / str(size)
        train_ranker(make_job(micro_batch_size=size, epochs=1), examples, folder)
        norms.append(float(_rows(folder)[0]["loss"]))
    # Dropout draws differ with the cut; a sum in place of a mean would be off by a factor of 4.
    assert norms[0] == pytest.approx(norms[1], rel=0.5)


def test_bfloat16_trains_float32_weights(make_job, examples, tmp_path) -> None:
    job = make_job("pairranker", precision="bfloat16", optimizer="adafactor", epochs=1)
    train_ranker(job, examples, tmp_path / "rough")
    ranker = RANKERS.load("pairranker").from_pretrained(tmp_path / "rough")
    assert {p.dtype for p in ranker.parameters()} == {torch.float32}
    identity = read_manifest(tmp_path / "rough").identity
    assert identity["precision"] == "bfloat16"
    exact = make_job("pairranker", precision="float32", optimizer="adafactor", epochs=1)
    train_ranker(exact, examples, tmp_path / "exact")
    rough, fine = ([float(row["loss"]) for row in _rows(folder) if row["loss"]]
                   for folder in (tmp_path / "rough", tmp_path / "exact"))  # fmt: skip
    # The same pairs and dropout; 8 bits in place of 24 move a loss of about 0.7 a little.
    assert rough != fine
    assert rough == pytest.approx(fine, abs=0.05)


def test_tensorboard_files_are_written(make_job, examples, tmp_path) -> None:
    train_ranker(make_job(report_to=["tensorboard"], epochs=1), examples, tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_an_unknown_reporter_is_a_clear_error(make_job, examples, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'training.report_to'.*tensorbord"):
        train_ranker(make_job(report_to=["tensorbord"]), examples, tmp_path)


def test_a_reporter_that_is_not_installed_is_a_clear_error(monkeypatch, tmp_path) -> None:
    from transformers import integrations

    def absent() -> None:
        raise RuntimeError("Wandb requires wandb to be installed.")

    monkeypatch.setattr(integrations, "get_reporting_integration_callbacks", lambda names: [absent])
    with pytest.raises(MissingDependencyError, match=r"'training.report_to'.*wandb.*leave it out"):
        trainer.reporters(["wandb"], tmp_path)


def test_every_integration_that_is_named_reports(monkeypatch, tmp_path) -> None:
    from transformers import TrainerCallback, integrations

    class Elsewhere(TrainerCallback):
        """Reports to a service."""

    kinds = [integrations.TensorBoardCallback, Elsewhere]
    asked: list[list[str]] = []

    def found(names: list[str]) -> list[type]:
        asked.append(names)
        return kinds

    monkeypatch.setattr(integrations, "get_reporting_integration_callbacks", found)
    assert [type(c) for c in trainer.reporters(["tensorboard", "elsewhere"], tmp_path)] == kinds
    assert asked == [["tensorboard", "elsewhere"]]


def test_a_loss_that_explodes_says_what_to_change(make_job, examples, tmp_path) -> None:
    job = make_job("pairranker", learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(DataError, match=r"not finite.*learning_rate"):
        train_ranker(job, examples, tmp_path)
