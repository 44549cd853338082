"""Ordered candidates with a reference: the examples that fusers learn from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blender_med.records import Candidate, Question

NO_REFERENCE = "questions without a reference"
NO_VALUE = "candidates without a finite value"
BLANK = "blank candidates"
NO_USABLE = "questions without a usable candidate"


@dataclass(frozen=True, slots=True)
class FusionExample:
    """A question with its candidates and the answer that a fuser is to write.

    Attributes:
        question_id: Id of the question.
        instruction: What to do; see :func:`fusion_source`.
        input: What to do it with; may be empty.
        candidates: Distinct texts that are not blank, the best first; at least one.
        target: The reference answer.
    """

    question_id: str
    instruction: str
    input: str
    candidates: tuple[str, ...]
    target: str


class FusionExamples(NamedTuple):
    """Examples in the order of their questions, and how much was left out for which reason."""

    examples: list[FusionExample]
    dropped: dict[str, int]


def fusion_source(question: Question) -> tuple[str, str]:
    """Instruction and input of a fuser's prompt, for training and for inference alike.

    The instruction is the question, with its options line by line; the input is the context, or
    an empty text. For MixInstruct these are its own instruction and input.
    """
    options = question.options or ()
    listed = [f"{chr(65 + i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([question.question, *listed]), question.context or ""


def fusion_examples(
    questions: Iterable[Question],
    candidates: Iterable[Candidate],
    values: Mapping[tuple[str, str], float],
) -> FusionExamples:
    """Join questions with their candidates, the best first; ties keep the given order.

    Left out and counted: questions without a reference, candidates without a finite value, blank
    ones, and questions that then have no candidate. Of equal texts the best counts. Multiple-choice
    questions are passed over: there is no text to write.

    Args:
        questions: Candidates of others are passed over. No question gives no example.
        candidates: May come as a stream.
        values: How good a candidate is, by question id and candidate key; higher is better.
    """
    chosen = {question.id: question for question in questions if question.task == "long"}
    by_question: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.question_id in chosen:
            by_question[candidate.question_id].append(candidate)
    dropped: Counter[str] = Counter()
    found = (_example(q, by_question[q.id], values, dropped) for q in chosen.values())
    return FusionExamples([example for example in found if example], dict(dropped))


def _example(
    question: Question,
    candidates: Sequence[Candidate],
    values: Mapping[tuple[str, str], float],
    dropped: Counter[str],
) -> FusionExample | None:
    target = (question.reference or "").strip()
    if not target:
        dropped[NO_REFERENCE] += 1
        return None
    texts = _best_first(candidates, values, dropped)
    if not texts:
        dropped[NO_USABLE] += 1
        return None
    return FusionExample(question.id, *fusion_source(question), texts, target)


def _best_first(
    candidates: Sequence[Candidate],
    values: Mapping[tuple[str, str], float],
    dropped: Counter[str],
) -> tuple[str, ...]:
    valued: list[tuple[float, str]] = []
    for candidate in candidates:
        value = values.get((candidate.question_id, candidate.key), math.nan)
        if not math.isfinite(value):
            dropped[NO_VALUE] += 1
        elif not candidate.text.strip():
            dropped[BLANK] += 1
        else:
            valued.append((value, candidate.text))
    valued.sort(key=lambda pair: -pair[0])
    return tuple(dict.fromkeys(text for _, text in valued))
