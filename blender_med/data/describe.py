"""Counts, lengths and balance of a question set, counts and lengths of a set of passages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blender_med.data.fields import LETTERS
from blender_med.data.quarantine import Passages, Questions
from blender_med.records import Passage, Question

QUANTILES = {
    "min": 0.0,
    "p5": 0.05,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "max": 1.0,
}


@dataclass(frozen=True, slots=True)
class DatasetDescription:
    """What ``describe`` found.

    Attributes:
        questions: Number of questions.
        groups: Number of groups that splits keep together.
        counts: (split, task) to number of questions.
        lengths: ``question``, ``context``, ``option``, ``reference`` to quantile to length in
            words (whitespace tokens); texts that are absent are not counted as empty.
        labels: Right answers of ``mcq`` by text where all questions have the same options
            (yes, no, maybe), else by letter; ``unknown`` where the answer is not given.
        question_types: Value of ``meta["question_type"]`` to number, the most frequent first.
        subjects: Value of ``meta["subject"]`` to number, the most frequent first.
        sources: Value of ``meta["source"]`` to number, the most frequent first.
        repeated_questions: Distinct normalised questions that occur more than once.
        duplicate_options: ``mcq`` questions with two options that read the same.
        quarantined: Reason to number of refused rows, the most frequent first.
    """

    questions: int
    groups: int
    counts: Mapping[tuple[str, str], int]
    lengths: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, int]
    question_types: Mapping[str, int]
    subjects: Mapping[str, int]
    sources: Mapping[str, int]
    repeated_questions: int
    duplicate_options: int
    quarantined: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PassagesDescription:
    """What ``describe_passages`` found.

    Attributes:
        passages: Number of passages.
        groups: Number of groups that splits keep together.
        counts: Split to number of passages.
        words: Words of all texts together (whitespace tokens).
        lengths: ``title``, ``text`` to quantile to length in words; absent titles do not count.
        licenses: Licence to number, the most frequent first; ``unknown`` where none is stated.
        sources: Value of ``meta["source"]`` to number, the most frequent first.
        quarantined: Reason to number of refused rows, the most frequent first.
    """

    passages: int
    groups: int
    counts: Mapping[str, int]
    words: int
    lengths: Mapping[str, Mapping[str, float]]
    licenses: Mapping[str, int]
    sources: Mapping[str, int]
    quarantined: Mapping[str, int]


def describe_passages(passages: Passages) -> PassagesDescription:
    """Describe a set of passages; an empty one has zero counts and no lengths."""
    texts = {"title": [p.title for p in passages if p.title], "text": [p.text for p in passages]}
    licenses = Counter(p.license or "unknown" for p in passages)
    return PassagesDescription(
        passages=len(passages),
        groups=len({(p.dataset, p.meta.get("group", p.id)) for p in passages}),
        counts=dict(sorted(Counter(p.split for p in passages).items())),
        words=sum(len(p.text.split()) for p in passages),
        lengths=_quantiles_of(texts),
        licenses=dict(licenses.most_common()),
        sources=_counted(passages, "source"),
        quarantined=passages.quarantined.reasons(),
    )


def describe(questions: Questions) -> DatasetDescription:
    """Describe a question set; an empty one has zero counts and no lengths."""
    from blender_med.data.contamination import repeated

    return DatasetDescription(
        questions=len(questions),
        groups=len({(q.dataset, q.meta.get("group", q.id)) for q in questions}),
        counts=dict(sorted(Counter((q.split, q.task) for q in questions).items())),
        lengths=_lengths(questions),
        labels=_labels(questions),
        question_types=_counted(questions, "question_type"),
        subjects=_counted(questions, "subject"),
        sources=_counted(questions, "source"),
        repeated_questions=len(repeated(questions)),
        duplicate_options=sum("duplicate_options" in q.meta for q in questions),
        quarantined=questions.quarantined.reasons(),
    )


def _counted(records: Iterable[Question | Passage], name: str) -> dict[str, int]:
    return dict(Counter(r.meta[name] for r in records if name in r.meta).most_common())


def _lengths(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    texts: dict[str, list[str]] = {
        "question": [q.question for q in questions],
        "context": [q.context for q in questions if q.context],
        "option": [option for q in questions for option in q.options or ()],
        "reference": [q.reference for q in questions if q.reference],
    }
    return _quantiles_of(texts)


def _quantiles_of(texts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    return {
        name: _quantiles([len(t.split()) for t in found]) for name, found in texts.items() if found
    }


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    import numpy as np

    values = np.quantile(lengths, list(QUANTILES.values()))
    return dict(zip(QUANTILES, (float(v) for v in values), strict=True))


def _labels(questions: Sequence[Question]) -> dict[str, int]:
    asked = [q for q in questions if q.options]
    same = len({q.options for q in asked}) == 1
    names = [_label(q, same) for q in asked]
    return dict(sorted(Counter(names).items()))


def _label(question: Question, by_text: bool) -> str:
    if question.answer_index is None or question.options is None:
        return "unknown"
    index = question.answer_index
    return question.options[index] if by_text else LETTERS[index]
