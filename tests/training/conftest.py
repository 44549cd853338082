"""A toy task that a small ranker can learn, and jobs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blender_med.data.pairs import RankingExample
from blender_med.training.config import RankerJob, load_ranker_job
from blender_med.training.examples import TrainingExamples

_TOPICS = ("fever", "cough", "pain", "dose", "liver", "heart")
_FAST: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "precision": "float32",
    "logging_steps": 1,
    "report_to": [],
}

MakeJob = Callable[..., RankerJob]


def toy_example(number: int, tasks: int = 1) -> RankingExample:
    """Two to four answers of six words; a label is how many of them are "good", less "bad"."""
    rng = np.random.default_rng(number)
    texts: dict[str, list[float]] = {}
    wanted = 2 + number % 3
    while len(texts) < wanted or len({tuple(labels) for labels in texts.values()}) < 2:
        words = rng.choice(["good", "bad", *_TOPICS], 6).tolist()
        value = float(words.count("good") - words.count("bad"))
        texts[" ".join(words)] = [value, float(words.count("fever"))][:tasks]
    source = f"what causes {_TOPICS[number % 6]} ?"
    return RankingExample(
        f"q{number}", source, tuple(texts), np.array(list(texts.values())), "good"
    )


def toy_examples(train: int, dev: int, tasks: int = 1) -> TrainingExamples:
    """Examples of the toy task."""
    made = [toy_example(number, tasks) for number in range(train + dev)]
    return TrainingExamples(made[:train], made[train:], {}, "toy task")


@pytest.fixture
def examples() -> TrainingExamples:
    return toy_examples(20, 6)


@pytest.fixture
def make_job(tiny_encoder: Path) -> MakeJob:
    """A job of a few steps; keyword arguments go to ``training``, ``ranker`` to the ranker."""

    def make(
        kind: str = "simcls",
        *,
        name: str = "toy",
        labels: tuple[str, ...] = ("value",),
        ranker: dict[str, Any] | None = None,
        seed: int = 0,
        **training: Any,
    ) -> RankerJob:
        lengths = {"source_maxlength": 12, "candidate_maxlength": 12}
        model = {"type": kind, "backbone": str(tiny_encoder)} | lengths | (ranker or {})
        tree = {"name": name, "seed": seed, "labels": labels, "ranker": model}
        return load_ranker_job(tree | {"training": _FAST | training})

    return make
