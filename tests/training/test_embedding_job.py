"""The training of an embedding fuser: what it learns, writes, repeats, resumes and refuses."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blender_med.errors import ConfigError, DataError
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import StateStore
from blender_med.fusers.state_batches import StateBatches, choose
from blender_med.store.manifest import read_manifest
from blender_med.training import embedding_trainer
from blender_med.training.batches import MixtureSampler, mixture_draws
from blender_med.training.embedding_config import EmbeddingFuserJob, load_embedding_job
from blender_med.training.embedding_evaluation import dev_columns
from blender_med.training.jobs import prepared

from .state_toy import WIDTHS, toy_question, write_run

FAST: dict[str, Any] = {"epochs": 3, "batch_size": 16, "micro_batch_size": 16, "logging_steps": 1}
MODES = ["weighted_sum", "refined", "transformer"]
GATES = [{"type": "dense"}, {"type": "noisy_topk", "k": 1}, {"type": "topk_softmax", "k": 2}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 questions, three fifths of them to learn from."""
    return write_run(tmp_path_factory.mktemp("run"), [toy_question(i) for i in range(100)])


def make(run: Path, top: dict[str, Any] | None = None, **fuser: Any) -> EmbeddingFuserJob:
    small = {"width": 8, "layers": 1, "attention_heads": 2, "dropout": 0.1}
    tree: dict[str, Any] = {"name": "toy", "data": {"run": str(run)}, "training": FAST}
    return load_embedding_job(tree | {"embedding_fuser": small | fuser} | (top or {}))


def train(job: EmbeddingFuserJob, folder: Path, **settings: Any) -> bool:
    return prepared(job)[1](folder, **settings)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_fuser_learns_which_option_is_right_and_says_so_in_its_card(run, tmp_path) -> None:
    job = make(run, {"training": FAST | {"epochs": 40, "learning_rate": 0.01, "patience": None}})
    assert train(job, tmp_path)
    fuser = EmbeddingFuser.from_pretrained(tmp_path, experts=WIDTHS)
    dev = prepared_examples(job).dev
    figures = dev_columns(fuser, job, StateStore(run / "embed"), dev)["all"]
    assert figures["accuracy"] > 0.8
    card = (tmp_path / "README.md").read_text()
    assert f"| accuracy | {figures['accuracy']:.4f} |" in card
    assert f"| weight of knows | {figures['weight of knows']:.4f} |" in card
    assert "weighted_sum, gate dense" in card and "| train | 60 | 210 |" in card
    best = max(float(row["eval_accuracy"]) for row in log(tmp_path) if row["eval_accuracy"])
    assert figures["accuracy"] == pytest.approx(best)
    assert not (tmp_path / "checkpoints").exists()


def prepared_examples(job: EmbeddingFuserJob) -> Any:
    from blender_med.training.embedding_examples import load_state_examples

    assert job.data is not None
    return load_state_examples(job.data, job)[1]


@pytest.mark.parametrize("gate", GATES, ids=lambda g: g["type"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_gate_trains_and_repeats_itself(run, tmp_path, mode, gate) -> None:
    job = make(run, mode=mode, gate=gate)
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(len(name))
        train(job.model_copy(update={"seed": seed}), tmp_path / name)
    assert weights(tmp_path / "first") == weights(tmp_path / "again")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")
    assert read_manifest(tmp_path / "first").stage == "embedding-fuser"


class Interrupt:
    """Ctrl-C during a step."""

    def __init__(self, stop: int) -> None:
        self._left = stop

    def __call__(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise KeyboardInterrupt


def test_an_interrupted_training_ends_as_an_undisturbed_one(run, tmp_path) -> None:
    quick = FAST | {"evaluate_every": 0.3, "patience": None}
    job = make(run, {"training": quick}, mode="transformer", gate={"type": "noisy_topk", "k": 1})
    train(job, tmp_path / "whole")
    for stop in (3, 7):  # of 12 steps
        with pytest.raises(KeyboardInterrupt):
            train(job, tmp_path / "cut", advance=Interrupt(stop))
    assert train(job, tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_training_stops_when_patience_is_out_and_keeps_the_best(run, tmp_path, monkeypatch) -> None:
    shares = iter([2, 9, 3, 9, 20])

    def measured_so(*given: object) -> embedding_trainer.Measured:
        return embedding_trainer.Measured(next(shares) / 20, np.array([0.25, 0.75]))

    monkeypatch.setattr(embedding_trainer, "choice_measure", measured_so)
    job = make(run, {"training": FAST | {"epochs": 9, "patience": 2}})
    train(job, tmp_path)
    measured = [float(r["eval_accuracy"]) for r in log(tmp_path) if r["eval_accuracy"]]
    assert measured == [0.1, 0.45, 0.15, 0.45]
    kept = [r["eval_weight_knows"] for r in log(tmp_path) if r["eval_accuracy"]]
    assert kept == ["0.75"] * 4
    assert "<svg" in (tmp_path / "training.svg").read_text()
    assert "(step 8)" in (tmp_path / "README.md").read_text()


def test_the_weights_may_be_chosen_by_likelihood(run, tmp_path) -> None:
    job = make(run, {"training": FAST | {"dev_metric": "log_likelihood"}})
    train(job, tmp_path)
    rows = [row for row in log(tmp_path) if row["eval_log_likelihood"]]
    fuser = EmbeddingFuser.from_pretrained(tmp_path)
    dev, batches = prepared_examples(job).dev, StateBatches(StateStore(run / "embed"), fuser.config)
    chosen = choose(fuser, batches, dev)
    values = [np.log(c.probabilities[e.gold]) for c, e in zip(chosen, dev, strict=True)]
    best = max(float(row["eval_log_likelihood"]) for row in rows)
    assert best == pytest.approx(np.mean(values), abs=1e-6)


def test_it_is_trained_again_when_the_states_changed(run, tmp_path) -> None:
    job = make(run)
    assert train(job, tmp_path / "model")
    assert not train(job, tmp_path / "model")
    questions = [toy_question(i) for i in range(100)]
    other = write_run(tmp_path / "run", questions, changed=" in another layer")
    assert train(make(other), tmp_path / "model")


def test_a_probe_reads_one_expert(run, tmp_path) -> None:
    train(make(run, {"experts": ["guesses"]}, gate={"type": "topk_softmax", "k": 1}), tmp_path)
    assert EmbeddingFuser.from_pretrained(tmp_path).config.experts == ["guesses"]
    assert "hidden states of guesses." in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("mode", MODES)
def test_training_may_start_from_trained_layers(run, tmp_path, mode) -> None:
    train(make(run, mode=mode), tmp_path / "first")
    start = {"start": str(tmp_path / "first"), "training": FAST | {"learning_rate": 1e-9}}
    train(make(run, start, mode=mode), tmp_path / "second")
    first, second = (
        EmbeddingFuser.from_pretrained(tmp_path / n).state_dict() for n in ("first", "second")
    )
    for name, own in second.items():
        if name.startswith("choice."):
            assert not torch.allclose(own, first[name], atol=1e-6)
        else:
            assert torch.allclose(own, first[name], atol=1e-6)
    with pytest.raises(ConfigError, match=r"start.*another 'width'.*set it to 8"):
        train(make(run, start, mode=mode, width=16), tmp_path / "third")
    with pytest.raises(ConfigError, match="another 'experts'"):
        train(make(run, start | {"experts": ["knows"]}, mode=mode), tmp_path / "fourth")


def test_the_mixture_is_drawn_by_temperature() -> None:
    assert mixture_draws([900, 100], 1) == [900, 100]
    # square roots: 30 and 10 of 40
    assert mixture_draws([900, 100], 2) == [750, 250]
    assert mixture_draws([900, 100], 1e9) == [500, 500]
    assert mixture_draws([5], 3) == [5]
    assert sum(mixture_draws([7, 5, 3], 1.7)) == 15
    sampler = MixtureSampler(["a"] * 90 + ["b"] * 10, 2, [1] * 100, 10, seed=1)
    drawn = np.array([position for _, position in sampler])
    counts = np.bincount(drawn, minlength=100)
    assert counts[:90].sum() == 75 and counts[:90].max() == 1
    # 25 of 10: each twice or thrice
    assert set(counts[90:].tolist()) == {2, 3}
    assert drawn.tolist() == [position for _, position in sampler]
    sampler.set_epoch(1)
    assert drawn.tolist() != [position for _, position in sampler]


def test_the_card_tells_the_data_sets_apart(tmp_path) -> None:
    questions = [toy_question(i, name) for name in ("one", "two") for i in range(40)]
    run = write_run(tmp_path / "run", questions)
    train(make(run, {"training": FAST | {"sampling_temperature": 3}}), tmp_path / "model")
    assert "| metric | all | one | two |" in (tmp_path / "model" / "README.md").read_text()


def test_data_that_cannot_be_learned_from_are_refused(run, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"data\.run.*no such run"):
        make(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="'prepare' of this run is missing"):
        prepared(make(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"no data to train on"):
        prepared(make(run).model_copy(update={"data": None}))
    with pytest.raises(ConfigError, match=r"experts.*no states.*did you mean 'knows'"):
        prepared(make(run, {"experts": ["knws"]}))
    with pytest.raises(ConfigError, match="stands twice"):
        make(run, {"experts": ["knows", "knows"]})
    train_only = [replace(toy_question(i), split="train") for i in range(8)]
    with pytest.raises(DataError, match="no dev question"):
        prepared(make(write_run(tmp_path / "no-dev", train_only)))
    unknown = [replace(toy_question(i), answer_index=None) for i in range(20)]
    with pytest.raises(DataError, match="questions without a known right option"):
        prepared(make(write_run(tmp_path / "unknown", unknown)))


def test_missing_states_are_named_before_training(tmp_path) -> None:
    questions = [toy_question(i) for i in range(20)]
    run = write_run(tmp_path / "run", questions[:-1])
    from blender_med.records import Question
    from blender_med.store.shards import part_path, write_part

    late = replace(questions[-1], split="train")
    write_part(part_path(run / "prepare", "0"), [*questions[:-1], late], Question)
    with pytest.raises(
        DataError, match=r"no states of expert '.*' for option:0 of question toy-19"
    ):
        prepared(make(run))


def test_the_order_of_rows_and_files_does_not_matter(run, tmp_path) -> None:
    questions = [toy_question(i) for i in range(100)]
    turned = write_run(tmp_path / "run", questions)
    for part in sorted((turned / "embed").glob("part-*.parquet")):
        turn_rows(part)
    train(make(run), tmp_path / "plain")
    train(make(turned), tmp_path / "turned")
    assert weights(tmp_path / "plain") == weights(tmp_path / "turned")


def turn_rows(part: Path) -> None:
    """Write the rows of a shard, and its states, the other way round."""
    from blender_med.fusers.hidden_states import states_path
    from blender_med.records import HiddenState
    from blender_med.store.shards import read_part, write_part

    rows = list(read_part(part, HiddenState))
    array = np.load(states_path(part))
    np.save(states_path(part), array[::-1])
    last = len(rows) - 1
    write_part(part, [replace(r, row=last - r.row) for r in reversed(rows)], HiddenState)


def test_the_memory_of_training_does_not_grow_with_the_questions(tmp_path, monkeypatch) -> None:
    """Whatever the number of questions, no more rows are read at once than a batch has."""
    most: dict[int, int] = {}
    rows = StateStore.rows
    for count in (300, 600):

        def counted(self: Any, expert: str, keys: Any, count: int = count, **settings: Any) -> Any:
            keys = list(keys)
            most[count] = max(most.get(count, 0), len(keys))
            return rows(self, expert, keys, **settings)

        monkeypatch.setattr(StateStore, "rows", counted)
        monkeypatch.setattr(embedding_trainer, "_STANDARD_QUESTIONS", 32)
        monkeypatch.setattr("blender_med.fusers.state_batches._QUESTIONS", 32)
        run = write_run(tmp_path / str(count), [toy_question(i) for i in range(count)])
        train(make(run, {"training": FAST | {"epochs": 1}}), tmp_path / f"model-{count}")
    assert most[300] <= 32 * 5 and most[600] <= 32 * 5


def test_question_width_is_only_needed_where_the_gate_reads_it(tmp_path) -> None:
    run = write_run(tmp_path / "run", [toy_question(i) for i in range(40)])
    for path in (run / "embed").glob("part-question-encoder*"):
        path.unlink()
    with pytest.raises(DataError, match="no states of expert 'question-encoder'"):
        prepared(make(run))
    train(make(run, gate_input="experts"), tmp_path / "model")
    assert EmbeddingFuser.from_pretrained(tmp_path / "model").config.question_width is None
