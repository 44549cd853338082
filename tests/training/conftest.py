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
from blender_med.training.fuser_config import FuserJob, load_fuser_job

from .fuser_toy import save_llama, save_t5

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


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("tiny-t5"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def make_fuser_job(tiny_t5: Path, tiny_llama: Path) -> Callable[..., FuserJob]:
    """A job of a few steps on a T5 or, with adapters, on a Llama.

    Keyword arguments go to ``training``, ``top`` to the recipe, ``fuser`` to its fuser.
    """
    families: dict[str, dict[str, Any]] = {
        "t5": {"fuser": {"backbone": str(tiny_t5)}},
        "llama": {"fuser": {"backbone": str(tiny_llama)}, "lora": {"r": 4}},
    }
    lengths = {"max_length": 128, "candidate_maxlength": 16, "target_maxlength": 8}
    decoding = {"num_beams": 1, "max_new_tokens": 8}

    def make(
        family: str,
        top: dict[str, Any] | None = None,
        fuser: dict[str, Any] | None = None,
        **training: Any,
    ) -> FuserJob:
        tree = {"name": "toy", "candidates": {"metric": "value", "order": "shuffled"}}
        tree |= families[family] | (top or {})
        tree["fuser"] = lengths | families[family]["fuser"] | (fuser or {})
        settings = _FAST | {"max_dev_questions": 4, "decoding": decoding} | training
        return load_fuser_job(tree | {"training": settings})

    return make
