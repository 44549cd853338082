"""The examples of a training job, from a finished run or from a file of scored candidates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from blender_med.data import load_questions
from blender_med.data.embedded import StateExample
from blender_med.data.fusion import FusionExample
from blender_med.data.mixinstruct import load_candidates
from blender_med.data.pairs import RankingExample, labelled_examples
from blender_med.data.splits import DEV_OF_TRAIN, resplit, with_dev_split
from blender_med.data.tuning import TuningExample
from blender_med.errors import ConfigError, DataError
from blender_med.records import Candidate, Question, Score
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts
from blender_med.training.config import TrainingData

LEARNED_SPLITS = ("train", "dev")

E = TypeVar("E", RankingExample, FusionExample, StateExample, TuningExample)


@dataclass(frozen=True, slots=True)
class TrainingExamples(Generic[E]):
    """What a model learns from and is chosen by.

    Attributes:
        train: At least one.
        dev: At least one.
        dropped: How much of the data teaches nothing, by reason.
        source: Where it comes from, for the model card.
    """

    train: list[E]
    dev: list[E]
    dropped: Mapping[str, int]
    source: str

    def content_sha256(self) -> str:
        """Hash of everything that training sees."""
        digest = sha256()
        for example in (*self.train, None, *self.dev):
            digest.update(json.dumps(example and _plain(example)).encode())
        return digest.hexdigest()


def _plain(example: RankingExample | FusionExample | StateExample | TuningExample) -> list[object]:
    if isinstance(example, TuningExample):
        return example.plain()
    if isinstance(example, RankingExample):
        return [example.source, example.candidates, example.labels.tolist(), example.reference]
    return list(astuple(example))


def load_examples(data: TrainingData, labels: Sequence[str]) -> TrainingExamples[RankingExample]:
    """Examples of the data that a recipe names.

    Raises:
        ConfigError: The run is no run directory, or is not finished.
        DataError: The file is missing or of another type, a label metric was not scored, or no
            usable train or dev question is left.
    """
    material = load_material(data)
    return split_examples(
        material.questions, material.candidates, material.scores, labels, source=material.source
    )


@dataclass(frozen=True, slots=True)
class Material:
    """Questions with scored candidates, and where they come from."""

    questions: Iterable[Question]
    candidates: Iterable[Candidate]
    scores: Iterable[Score]
    source: str


def load_material(data: TrainingData, stages: Sequence[str] = ("score",)) -> Material:
    """What a recipe names as its data.

    Args:
        data: A run or a file.
        stages: Stages of the run that are needed beside prepare and generate.

    Raises:
        ConfigError: The run is no run directory, or is not finished.
        DataError: The file is missing or of another type.
    """
    if data.run is not None:
        return _material_of_run(Path(data.run), stages)
    return _material_of_file(str(data.candidates))


def _material_of_run(folder: Path, stages: Sequence[str]) -> Material:
    for stage in ("prepare", "generate", *stages):
        if read_manifest(folder / stage) is None:
            needed = ", ".join(("prepare", "generate", *stages))
            fix = f"name the directory of a run with the stages {needed}"
            problem = f"stage '{stage}' of this run is missing or unfinished"
            raise ConfigError(problem, key="data.run", value=str(folder), fix=fix)
    return Material(
        read_parts(folder / "prepare", Question),
        read_parts(folder / "generate", Candidate),
        read_parts(folder / "score", Score) if "score" in stages else (),
        f"run {folder}",
    )


def _material_of_file(path: str) -> Material:
    questions = load_questions("mixinstruct", path)
    graded = load_candidates(path)
    if {question.split for question in questions} == {"train"}:
        own = resplit(questions, DEV_OF_TRAIN, seed=0)
    else:
        own = with_dev_split(questions, seed=0)
    return Material(own, graded.candidates, graded.scores, f"file {path}")


def split_examples(
    questions: Iterable[Question],
    candidates: Iterable[Candidate],
    scores: Iterable[Score],
    labels: Sequence[str],
    *,
    source: str,
) -> TrainingExamples[RankingExample]:
    """Examples of the train and of the dev questions; others are passed over.

    Raises:
        DataError: A label metric was not scored, or no usable train or dev question is left.
    """
    learned = learned_questions(questions)
    examples, dropped = labelled_examples(learned.values(), candidates, scores, labels)
    need = "candidates that differ in their labels"
    return by_split(learned, examples, dropped, source=source, need=need)


def learned_questions(questions: Iterable[Question]) -> dict[str, Question]:
    """Train and dev questions by id."""
    return {q.id: q for q in questions if q.split in LEARNED_SPLITS}


def by_split(
    learned: Mapping[str, Question],
    examples: Sequence[E],
    dropped: Mapping[str, int],
    *,
    source: str,
    need: str,
) -> TrainingExamples[E]:
    """Examples sorted by the split of their question.

    Args:
        learned: From :func:`learned_questions`.
        examples: Of these questions.
        dropped: What was left out, by reason.
        source: Where all comes from.
        need: What a question needs to be usable, for messages.

    Raises:
        DataError: No usable train or dev question is left.
    """
    split = {name: [e for e in examples if learned[e.question_id].split == name]
             for name in LEARNED_SPLITS}  # fmt: skip
    for name, own in split.items():
        if not own:
            raise _nothing_left(name, learned.values(), dropped, source, need)
    return TrainingExamples(split["train"], split["dev"], dropped, source)


def _nothing_left(
    split: str, learned: Iterable[Question], dropped: Mapping[str, int], source: str, need: str
) -> DataError:
    purpose = {"train": "to learn from", "dev": "to choose the best weights by"}[split]
    if any(question.split == split for question in learned):
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        fix = f"give each question {need} (left out: {reasons})"
    else:
        fix = "give the data one, such as splits: {train: 0.7, dev: 0.1, test: 0.2} in prepare"
    return DataError(f"no {split} question {purpose}", file=source, fix=fix)
