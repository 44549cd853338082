"""Questions with the answers that an expert is tuned on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

from blender_med.data.splits import resplit
from blender_med.data.text import text_group
from blender_med.prompts.templates import answer_text
from blender_med.records import Question

DEV_SHARE = {"dev": 0.05, "train": 0.95}
NO_ANSWER = "questions without an answer"
TEST = "test questions"
HELD_OUT = "questions of documents, or with words, that are held out"


@dataclass(frozen=True, slots=True)
class TuningExample:
    """A question with an answer, :func:`~blender_med.prompts.templates.answer_text` of it."""

    question: Question

    @property
    def question_id(self) -> str:
        """Id of the question."""
        return self.question.id

    @property
    def answer(self) -> str:
        """The answer."""
        return answer_text(self.question) or ""

    @property
    def answer_words(self) -> Sequence[str]:
        """Words of the answer."""
        return self.answer.split()

    def plain(self) -> list[object]:
        """All that a model sees of it."""
        own = self.question
        return [own.id, own.question, own.context, own.options, self.answer]


class TuningExamples(NamedTuple):
    """Examples to learn from and to measure on, and how many were left out for which reason."""

    train: list[TuningExample]
    dev: list[TuningExample]
    dropped: dict[str, int]


class HeldOut:
    """Questions that a run asks: neither they nor their documents may be learned.

    A question is held out whose document (``meta["group"]``), question or reference is that of
    one of them; texts are compared without layout and case.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._marks = {mark for question in questions for mark in _marks(question)}

    def __contains__(self, question: Question) -> bool:
        return any(mark in self._marks for mark in _marks(question))


def _marks(question: Question) -> list[str]:
    group = question.meta.get("group")
    texts = {"question": question.question, "reference": question.reference}
    marks = [f"{kind}:{text_group(text)}" for kind, text in texts.items() if text]
    if question.task == "mcq":  # "Which of the following is true?" stands in many
        marks = [":".join([*marks, *map(text_group, question.options or ())])]
    return marks + ([f"group:{question.dataset}/{group}"] if group else [])


def tuning_examples(
    questions: Sequence[Question],
    *,
    weight: float,
    held_out: HeldOut,
    seed: int,
) -> TuningExamples:
    """Examples of one data set.

    Args:
        questions: All of the data set, with its own splits.
        weight: How often a train question stands in the result; see :func:`repeated`.
        held_out: What may not be learned.
        seed: Of the dev split, where the data set has none.
    """
    reasons = [_unusable(question, held_out) for question in questions]
    dropped = Counter(reason for reason in reasons if reason)
    kept = [q for q, reason in zip(questions, reasons, strict=True) if reason is None]
    if kept and all(q.split == "train" for q in kept):
        kept = resplit(kept, DEV_SHARE, seed)
    train = repeated([q for q in kept if q.split == "train"], weight)
    dev = [q for q in kept if q.split == "dev"]
    return TuningExamples(list(map(TuningExample, train)), list(map(TuningExample, dev)), dropped)


def _unusable(question: Question, held_out: HeldOut) -> str | None:
    if answer_text(question) is None:
        return NO_ANSWER
    if question.split == "test":
        return TEST
    return HELD_OUT if question in held_out else None


def repeated(questions: Sequence[Question], weight: float) -> list[Question]:
    """Each question ``weight`` times, the whole part of it; the rest draws by the hash of its id.

    Repeats get the suffixes ``~2``, ``~3``, ... so that ids stay unique.
    """
    whole, rest = int(weight), weight - int(weight)
    order = sorted(range(len(questions)), key=lambda i: _place(questions[i].id))
    drawn = set(order[: math.floor(rest * len(questions) + 0.5)])
    return [
        question if copy == 0 else replace(question, id=f"{question.id}~{copy + 1}")
        for i, question in enumerate(questions)
        for copy in range(whole + (i in drawn))
    ]


def _place(name: str) -> bytes:
    return sha256(name.encode("utf-8", "replace")).digest()
