"""Scored candidates as the examples that rankers learn from and are measured on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import DataError
from blender_med.records import Candidate, Question, Score

Floats = NDArray[np.float64]

NO_LABEL = "candidates without a finite label"
NO_CANDIDATES = "questions without a labelled candidate"
ONE_CANDIDATE = "questions with one distinct candidate"
EQUAL_LABELS = "questions whose candidates all have equal labels"


@dataclass(frozen=True, slots=True, eq=False)
class RankingExample:
    """Candidates of one question with their labels; what every ranker trains on.

    Attributes:
        question_id: Id of the question.
        source: What the candidates answer; see :func:`source_text`.
        candidates: Distinct texts, [n], n >= 2.
        labels: Values of the label metrics, higher is better, [n, n_tasks]; all finite, and not
            all rows are equal.
        reference: The reference answer, which some losses want above every candidate; or None.

    Raises:
        DataError: The labels are not of that shape, or one is NaN or infinite.
    """

    question_id: str
    source: str
    candidates: tuple[str, ...]
    labels: Floats
    reference: str | None = None

    def __post_init__(self) -> None:
        """Check the labels: one NaN would end as a loss that is not finite."""
        where = f"question {self.question_id}"
        if self.labels.ndim != 2 or len(self.labels) != len(self.candidates):
            problem = f"{where}: {len(self.candidates)} candidates, labels {self.labels.shape}"
            raise DataError(problem, fix="give each candidate one label for each task")
        if not np.isfinite(self.labels).all():
            fix = "leave out the candidates whose label is NaN or infinite"
            raise DataError(f"{where}: a label is not finite", value=self.labels.tolist(), fix=fix)


class LabelledExamples(NamedTuple):
    """Examples in the order of their questions, and how much was left out for which reason."""

    examples: list[RankingExample]
    dropped: dict[str, int]


def source_text(question: Question) -> str:
    """What a candidate answers: context (where there is one), question, options, line by line."""
    options = question.options or ()
    listed = "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(options))
    return "\n".join(part for part in (question.context, question.question, listed) if part)


def labelled_examples(
    questions: Iterable[Question],
    candidates: Iterable[Candidate],
    scores: Iterable[Score],
    metrics: Sequence[str],
) -> LabelledExamples:
    """Join candidates with their scores, question by question.

    A candidate with a missing, NaN or infinite label in any metric is left out, and of equal
    texts all but the first. A question then left with fewer than two candidates, or with
    candidates of equal labels in every metric, teaches nothing and is left out too. ``dropped``
    counts all of these except repeated texts.

    Args:
        questions: Candidates and scores of others are passed over. No question gives no example.
        candidates: May come as a stream.
        scores: The same; of other metrics too.
        metrics: The label metrics; each is one task, in this order.

    Raises:
        DataError: A metric has no score at all although there are candidates.
    """
    chosen = {question.id: question for question in questions}
    labels, known = _labels(scores, metrics, chosen)
    by_question: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.question_id in chosen:
            by_question[candidate.question_id].append(candidate)
    if by_question:
        _check_metrics(metrics, known)
    dropped: Counter[str] = Counter()
    found = (_example(q, by_question[q.id], labels, dropped) for q in chosen.values())
    return LabelledExamples([example for example in found if example], dict(dropped))


def _labels(
    scores: Iterable[Score], metrics: Sequence[str], chosen: Mapping[str, Question]
) -> tuple[dict[tuple[str, str], Floats], set[str]]:
    """Label rows [n_tasks] by question and candidate key, NaN where missing; metrics met."""
    columns = {metric: column for column, metric in enumerate(metrics)}
    rows: dict[tuple[str, str], Floats] = {}
    known: set[str] = set()
    for score in scores:
        if score.question_id not in chosen:
            continue
        known.add(score.metric)
        if score.metric in columns:
            key = (score.question_id, score.key)
            row = rows.setdefault(key, np.full(len(metrics), np.nan))
            row[columns[score.metric]] = score.value
    return rows, known


def _check_metrics(metrics: Sequence[str], known: set[str]) -> None:
    for metric in metrics:
        if metric not in known:
            fix = f"score the candidates with it, or label by: {', '.join(sorted(known)) or 'none'}"
            raise DataError("no candidate has a score of the label metric", value=metric, fix=fix)


def _example(
    question: Question,
    candidates: Sequence[Candidate],
    labels: Mapping[tuple[str, str], Floats],
    dropped: Counter[str],
) -> RankingExample | None:
    kept: dict[str, Floats] = {}
    for candidate in candidates:
        row = labels.get((question.id, candidate.key))
        if row is None or not np.isfinite(row).all():
            dropped[NO_LABEL] += 1
        else:
            kept.setdefault(candidate.text, row)
    values = np.array(list(kept.values()))
    if reason := _unusable(values):
        dropped[reason] += 1
        return None
    return RankingExample(
        question.id, source_text(question), tuple(kept), values, question.reference
    )


def _unusable(values: Floats) -> str | None:
    if len(values) == 0:
        return NO_CANDIDATES
    if len(values) == 1:
        return ONE_CANDIDATE
    return EQUAL_LABELS if (values == values[0]).all() else None
