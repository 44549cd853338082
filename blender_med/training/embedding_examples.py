"""What an embedding fuser learns from: the questions of a run whose states are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from blender_med.data.embedded import (
    QUESTION_TEXT,
    StateExample,
    choice_examples,
    writing_examples,
)
from blender_med.errors import ConfigError, DataError
from blender_med.fusers.hidden_states import QUESTION_ENCODER, Key, StateStore
from blender_med.records import Question
from blender_med.registry import suggestion
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts
from blender_med.training.embedding_config import EmbeddingFuserJob, StateData
from blender_med.training.examples import TrainingExamples, by_split, learned_questions

if TYPE_CHECKING:
    from blender_med.store.manifest import Manifest

_NEEDED = ("prepare", "embed")


@dataclass(frozen=True)
class StoredStates:
    """The states of a run.

    Attributes:
        folder: Of stage embed.
        fingerprint: Of its settings and inputs; the states follow from it.
    """

    folder: Path
    fingerprint: str

    @cached_property
    def store(self) -> StateStore:
        """Opened when it is first needed."""
        return StateStore(self.folder)

    def experts(self, job: EmbeddingFuserJob, order: Sequence[str] | None = None) -> dict[str, int]:
        """Width of the states of each expert of a job.

        Args:
            job: The job.
            order: In which the experts stand; None: as in the job, or in the run.

        Raises:
            ConfigError: The run has no states of an expert that the job names.
            DataError: The experts differ in their slots.
        """
        known = [name for name in self.store.experts if name != QUESTION_ENCODER]
        for name in job.experts or ():
            if name not in known:
                problem = "there are no states of this expert"
                fix = suggestion(name, known)
                raise ConfigError(problem, key="experts", value=name, fix=fix)
        names = list(job.experts or known)
        if order is not None and set(order) == set(names):
            names = list(order)
        slots = {self.store.slots(name) for name in names}
        if len(slots) > 1:
            fix = "run stage embed again for all experts"
            raise DataError("the experts have states of different slots", value=slots, fix=fix)
        return {name: self.store.width(name) for name in names}

    def question_width(self) -> int | None:
        """Width of the embeddings of the questions; None where there are none."""
        has = QUESTION_ENCODER in self.store.experts
        return self.store.width(QUESTION_ENCODER) if has else None


def stored_states(embed: Path) -> StoredStates:
    """The states of a finished stage embed.

    Raises:
        ConfigError: It is missing or unfinished.
    """
    return StoredStates(embed, _finished(embed).fingerprint)


def load_state_examples(
    data: StateData, job: EmbeddingFuserJob
) -> tuple[StoredStates, TrainingExamples[StateExample]]:
    """States and examples of the run that a recipe names.

    Raises:
        ConfigError: The run is no run directory, or a stage is missing or unfinished.
        DataError: The states of a question are missing, or no usable train or dev question is
            left.
    """
    folder = Path(data.run)
    for stage in _NEEDED:
        _finished(folder / stage)
    states = stored_states(folder / "embed")
    questions = read_parts(folder / "prepare", Question)
    return states, state_examples(questions, states, job, source=f"run {folder}")


def state_examples(
    questions: Iterable[Question], states: StoredStates, job: EmbeddingFuserJob, *, source: str
) -> TrainingExamples[StateExample]:
    """Examples of the train and of the dev questions, after a look at their states.

    Raises:
        ConfigError: The run has no states of an expert that the job names.
        DataError: The states of a question are missing, or no usable train or dev question is
            left.
    """
    learned = learned_questions(questions)
    made = (writing_examples if job.writes else choice_examples)(learned.values())
    need = "a reference" if job.writes else "a known right option"
    examples = by_split(learned, made.examples, made.dropped, source=source, need=need)
    _check_stored(states, job, [*examples.train, *examples.dev])
    return examples


def _check_stored(
    states: StoredStates, job: EmbeddingFuserJob, examples: Sequence[StateExample]
) -> None:
    keys: dict[str, list[Key]] = {
        name: [Key(e.question_id, text) for e in examples for text in e.candidates]
        for name in states.experts(job)
    }
    if job.embedding_fuser.gate_input == "question":
        keys[QUESTION_ENCODER] = [Key(e.question_id, QUESTION_TEXT) for e in examples]
    for name, own in keys.items():
        states.store.check(name, own)


def _finished(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        fix = f"name the directory of a run with the stages {', '.join(_NEEDED)}"
        problem = f"stage '{folder.name}' of this run is missing or unfinished"
        raise ConfigError(problem, key="data.run", value=str(folder.parent), fix=fix)
    return manifest
