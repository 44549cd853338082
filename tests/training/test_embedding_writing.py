"""The training of an embedding fuser that writes: what it learns, logs, resumes and draws."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blender_med.errors import DataError
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import (
    QUESTION_ENCODER,
    Key,
    StateStore,
    states_path,
    write_states,
)
from blender_med.fusers.state_batches import StateBatches
from blender_med.records import HiddenState, Question
from blender_med.store.shards import part_path, write_part
from blender_med.training.embedding_config import EmbeddingFuserJob, load_embedding_job
from blender_med.training.embedding_examples import load_state_examples
from blender_med.training.jobs import prepared

from .fuser_toy import WORDS
from .state_toy import QUESTION_WIDTH, write_manifests

FAST: dict[str, Any] = {
    "epochs": 2, "batch_size": 8, "micro_batch_size": 8, "logging_steps": 1, "target_maxlength": 6,
}  # fmt: skip
SLOTS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions; the states of one expert say which of four words is the answer."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    splits = ("train", "train", "train", "train", "dev")
    questions = [
        Question(f"q{i}", "toy", splits[i % 5], "long", f"{i}?", reference=WORDS[i * 7 % 4])
        for i in range(40)
    ]
    write_part(part_path(folder / "prepare", "0"), questions, Question)
    widths = {"knows": 8, "guesses": 6, QUESTION_ENCODER: QUESTION_WIDTH}
    for expert, width in widths.items():
        slots = 1 if expert == QUESTION_ENCODER else SLOTS
        states = [rng.normal(size=(slots, width)).astype(np.float32) for _ in questions]
        for i, row in enumerate(states):
            if expert == "knows":
                row[:, i * 7 % 4] += 4.0
        keys = [Key(question.id, "question") for question in questions]
        path = part_path(folder / "embed", f"{expert}-0-40")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_states(states_path(path), states, keys, "float32")
        index = [HiddenState(key.question_id, expert, key.text, i) for i, key in enumerate(keys)]
        write_part(path, index, HiddenState)
    write_manifests(folder)
    return folder


def make(run: Path, decoder: Path, top: dict[str, Any] | None = None, **head: Any):
    settings = {"type": "generate", "decoder": str(decoder), "tuning": "full", **head}
    fuser = {"width": 16, "dropout": 0.0, "head": settings}
    tree = {"name": "toy", "data": {"run": str(run)}, "training": FAST, "embedding_fuser": fuser}
    return load_embedding_job(tree | (top or {}))


def train(job: EmbeddingFuserJob, folder: Path, **settings: Any) -> bool:
    return prepared(job)[1](folder, **settings)


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_decoder_learns_to_write_what_the_states_say(run, tiny_t5, tmp_path) -> None:
    longer = FAST | {"epochs": 30, "learning_rate": 5e-3, "patience": None, "evaluate_every": 5}
    job = make(run, tiny_t5, {"training": longer})
    assert train(job, tmp_path)
    rows = [row for row in log(tmp_path) if row["eval_log_likelihood"]]
    values = [float(row["eval_log_likelihood"]) for row in rows]
    assert values[-1] > values[0] and values[-1] > -0.5
    assert all(
        float(row["eval_weight_knows"]) + float(row["eval_weight_guesses"]) == pytest.approx(1)
        for row in rows
    )
    fuser = EmbeddingFuser.from_pretrained(tmp_path)
    states, examples = load_state_examples(job.data, job)
    inputs = StateBatches(states.store, fuser.config).inputs(examples.dev)
    texts = fuser.generate_texts(inputs["states"], inputs["questions"], Decoding(max_new_tokens=6))
    right = [text.strip() == e.target for text, e in zip(texts, examples.dev, strict=True)]
    assert np.mean(right) > 0.7
    drawn = (tmp_path / "training.svg").read_text()
    assert "dev log likelihood" in drawn and "mean weight on dev" in drawn and "guesses" in drawn
    card = (tmp_path / "README.md").read_text()
    assert f"| log_likelihood | {max(values):.4f} |" in card and "it writes an answer" in card


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(run, tiny_t5, tmp_path, tuning) -> None:
    job = make(run, tiny_t5, tuning=tuning)
    train(job, tmp_path / "whole")
    left = [6]

    def interrupt(steps: int) -> None:
        left[0] -= steps
        if left[0] <= 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, tmp_path / "cut", advance=interrupt)
    assert train(job, tmp_path / "cut")
    for name in ("model.safetensors", "training.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_choosing_may_start_from_layers_that_learned_to_write(run, tiny_t5, tmp_path) -> None:
    from .state_toy import toy_question, write_run

    train(make(run, tiny_t5), tmp_path / "pretrained")
    exam = write_run(tmp_path / "exam", [toy_question(i) for i in range(40)])
    chooser = {
        "name": "chooser", "data": {"run": str(exam)}, "start": str(tmp_path / "pretrained"),
        "embedding_fuser": {"width": 16, "dropout": 0.0}, "training": FAST,
    }  # fmt: skip
    train(load_embedding_job(chooser), tmp_path / "chooser")
    assert EmbeddingFuser.from_pretrained(tmp_path / "chooser").config.decoder_config is None
    assert str(tmp_path / "pretrained") in (tmp_path / "chooser" / "README.md").read_text()


def test_states_of_the_questions_are_needed(run, tiny_t5, tmp_path) -> None:
    store = StateStore(run / "embed")
    assert store.slots("knows") == SLOTS
    from .state_toy import toy_question, write_run

    exam = write_run(tmp_path / "exam", [toy_question(i) for i in range(20)])
    with pytest.raises(DataError, match=r"no train question to learn from.*a reference"):
        prepared(make(exam, tiny_t5))
