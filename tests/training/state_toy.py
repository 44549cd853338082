"""A toy run: questions whose right option one of two experts knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blender_med.data.embedded import QUESTION_TEXT, option_text
from blender_med.fusers.hidden_states import QUESTION_ENCODER, Key, states_path, write_states
from blender_med.records import HiddenState, Question
from blender_med.store.manifest import Manifest, provenance, timestamp, write_manifest
from blender_med.store.shards import part_path, write_part

WIDTHS = {"knows": 8, "guesses": 6}
QUESTION_WIDTH = 4


def toy_question(number: int, dataset: str = "toy") -> Question:
    """Two to five options."""
    options = tuple("abcde"[: 2 + number % 4])
    splits = ("train", "train", "train", "dev", "test")
    return Question(
        id=f"{dataset}-{number}",
        dataset=dataset,
        split=splits[number % 5],
        task="mcq",
        question=f"question {number} ?",
        context=None,
        options=options,
        answer_index=number * 7 % len(options),
        reference=f"answer {number}",
    )


def write_run(folder: Path, questions: Sequence[Question], *, changed: str = "") -> Path:
    """The stages prepare and embed of a run; the third number of "knows" tells the right option."""
    write_part(part_path(folder / "prepare", "0"), questions, Question)
    rng = np.random.default_rng(0)
    for expert, width in {**WIDTHS, QUESTION_ENCODER: QUESTION_WIDTH}.items():
        keys, states = [], []
        for question in questions:
            texts = [option_text(i) for i in range(len(question.options or ()))]
            for i, text in enumerate([QUESTION_TEXT] if width == QUESTION_WIDTH else texts):
                row = rng.normal(size=(1, width)).astype(np.float32)
                if expert == "knows":
                    row[0, 2] += 3.0 * (i == question.answer_index)
                keys.append(Key(question.id, text))
                states.append(row)
        path = part_path(folder / "embed", f"{expert}-0-{len(questions)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_states(states_path(path), states, keys, "float32")
        index = [HiddenState(k.question_id, expert, k.text, i, 9) for i, k in enumerate(keys)]
        write_part(path, index, HiddenState)
    write_manifests(folder, changed)
    return folder


def write_manifests(folder: Path, changed: str = "") -> None:
    """Both stages are finished."""
    for stage in ("prepare", "embed"):
        write_manifest(folder / stage, _manifest(stage, changed))


def _manifest(stage: str, changed: str) -> Manifest:
    return Manifest(
        stage=stage, fingerprint=f"{stage}{changed}", identity={}, inputs={}, parts={}, rows=0,
        files=[], seconds=0.0, finished=timestamp(), provenance=provenance(),
    )  # fmt: skip
