"""Questions whose hidden states are stored, and what is to be made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from blender_med.records import Question

QUESTION_TEXT = "question"
NO_ANSWER = "questions without a known right option"
NO_REFERENCE = "questions without a reference"
OTHER_TASK = "questions of another task"


def option_text(option: int) -> str:
    """Key of the states of a question with one of its options."""
    return f"option:{option}"


@dataclass(frozen=True, slots=True)
class StateExample:
    """A question for an embedding fuser.

    Attributes:
        question_id: Id of the question.
        dataset: Its data set.
        candidates: Keys of the texts whose states are read: of every option, or of the question.
        gold: Right option, None where the fuser writes.
        target: Text that it is to write, None where it chooses.
    """

    question_id: str
    dataset: str
    candidates: tuple[str, ...]
    gold: int | None = None
    target: str | None = None


class StateExamples(NamedTuple):
    """Examples in the order of their questions, and how much was left out for which reason."""

    examples: list[StateExample]
    dropped: dict[str, int]


def choice_examples(questions: Iterable[Question]) -> StateExamples:
    """Multiple-choice questions with a known right option, to choose it."""
    found: list[StateExample] = []
    dropped: Counter[str] = Counter()
    for question in questions:
        if question.task != "mcq":
            dropped[OTHER_TASK] += 1
        elif question.answer_index is None:
            dropped[NO_ANSWER] += 1
        else:
            found.append(unanswered(question, gold=question.answer_index))
    return StateExamples(found, dict(dropped))


def writing_examples(questions: Iterable[Question]) -> StateExamples:
    """Long-form questions with a reference, to write it."""
    found: list[StateExample] = []
    dropped: Counter[str] = Counter()
    for question in questions:
        if question.task != "long":
            dropped[OTHER_TASK] += 1
        elif not (question.reference or "").strip():
            dropped[NO_REFERENCE] += 1
        else:
            example = StateExample(
                question.id, question.dataset, (QUESTION_TEXT,), target=question.reference
            )
            found.append(example)
    return StateExamples(found, dict(dropped))


def unanswered(question: Question, gold: int | None = None) -> StateExample:
    """A multiple-choice question with the texts of all its options."""
    texts = tuple(option_text(i) for i in range(len(question.options or ())))
    return StateExample(question.id, question.dataset, texts, gold=gold)
