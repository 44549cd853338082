"""The examples of a training job, from a finished run or from a file of scored candidates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from blender_med.data import load_questions
from blender_med.data.mixinstruct import load_candidates
from blender_med.data.pairs import RankingExample, labelled_examples
from blender_med.data.splits import DEV_OF_TRAIN, resplit, with_dev_split
from blender_med.errors import ConfigError, DataError
from blender_med.records import Candidate, Question, Score
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts
from blender_med.training.config import TrainingData

LEARNED_SPLITS = ("train", "dev")

_READ_STAGES = ("prepare", "generate", "score")


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """What a ranker learns from and is chosen by.

    Attributes:
        train: At least one.
        dev: At least one.
        dropped: How much of the data teaches nothing, by reason.
        source: Where it comes from, for the model card.
    """

    train: list[RankingExample]
    dev: list[RankingExample]
    dropped: Mapping[str, int]
    source: str

    def content_sha256(self) -> str:
        """Hash of everything that training sees."""
        digest = sha256()
        for example in (*self.train, None, *self.dev):
            digest.update(json.dumps(example and _plain(example)).encode())
        return digest.hexdigest()


def _plain(example: RankingExample) -> list[object]:
    return [example.source, example.candidates, example.labels.tolist(), example.reference]


def load_examples(data: TrainingData, labels: Sequence[str]) -> TrainingExamples:
    """Examples of the data that a recipe names.

    Raises:
        ConfigError: The run is no run directory, or is not finished.
        DataError: The file is missing or of another type, a label metric was not scored, or no
            usable train or dev question is left.
    """
    if data.run is not None:
        return examples_of_run(Path(data.run), labels)
    return examples_of_file(str(data.candidates), labels)


def examples_of_run(folder: Path, labels: Sequence[str]) -> TrainingExamples:
    """Train and dev examples of a run directory; see :func:`load_examples`."""
    for stage in _READ_STAGES:
        if read_manifest(folder / stage) is None:
            fix = "name the directory of a run with the stages prepare, generate and score"
            problem = f"stage '{stage}' of this run is missing or unfinished"
            raise ConfigError(problem, key="data.run", value=str(folder), fix=fix)
    return split_examples(
        read_parts(folder / "prepare", Question),
        read_parts(folder / "generate", Candidate),
        read_parts(folder / "score", Score),
        labels,
        source=f"run {folder}",
    )


def examples_of_file(path: str, labels: Sequence[str]) -> TrainingExamples:
    """Train and dev examples of a file in MixInstruct's format; see :func:`load_examples`."""
    questions = load_questions("mixinstruct", path)
    graded = load_candidates(path)
    if {question.split for question in questions} == {"train"}:
        own = resplit(questions, DEV_OF_TRAIN, seed=0)
    else:
        own = with_dev_split(questions, seed=0)
    return split_examples(own, graded.candidates, graded.scores, labels, source=f"file {path}")


def split_examples(
    questions: Iterable[Question],
    candidates: Iterable[Candidate],
    scores: Iterable[Score],
    labels: Sequence[str],
    *,
    source: str,
) -> TrainingExamples:
    """Examples of the train and of the dev questions; others are passed over.

    Raises:
        DataError: A label metric was not scored, or no usable train or dev question is left.
    """
    learned = {q.id: q for q in questions if q.split in LEARNED_SPLITS}
    examples, dropped = labelled_examples(learned.values(), candidates, scores, labels)
    split = {name: [e for e in examples if learned[e.question_id].split == name]
             for name in LEARNED_SPLITS}  # fmt: skip
    for name, own in split.items():
        if not own:
            raise _nothing_left(name, learned.values(), dropped, source)
    return TrainingExamples(split["train"], split["dev"], dropped, source)


def _nothing_left(
    split: str, learned: Iterable[Question], dropped: Mapping[str, int], source: str
) -> DataError:
    purpose = {"train": "to learn from", "dev": "to choose the best weights by"}[split]
    if any(question.split == split for question in learned):
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        fix = f"give each question candidates that differ in their labels (left out: {reasons})"
    else:
        fix = "give the data one, such as splits: {train: 0.7, dev: 0.1, test: 0.2} in prepare"
    return DataError(f"no {split} question {purpose}", file=source, fix=fix)
