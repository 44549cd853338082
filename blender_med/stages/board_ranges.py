"""Boards of a run, a range of its questions at a time: memory does not grow with the questions."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Generic

import numpy as np

from blender_med.errors import DataError
from blender_med.metrics.choice import are_word_labels
from blender_med.records import Protocol, Question, R, Score, Task
from blender_med.stages.base import Run
from blender_med.stages.groups import GeneratedCandidates, RangedParts
from blender_med.stages.methods.board import Board, build_boards

Kind = tuple[Task, Protocol]

# Questions of each data set that methods learn from; where there are more, spread over all of
# them. Of test only the mean costs of the experts are taken.
MOST_LEARNED = {"train": 5000, "dev": 5000, "test": 1000}


class BoardRanges:
    """The boards of a run.

    Args:
        run: With the stages prepare, generate and score.
    """

    def __init__(self, run: Run) -> None:
        self._questions = run.questions
        self._candidates = GeneratedCandidates(run.stage_folder("generate"))
        self._scores = RangedParts(run.stage_folder("score"), Score)
        self._samples: tuple[Kind, dict[str, Board]] | None = None

    def boards(self, kind: Kind, own: range) -> list[Board]:
        """Boards of the questions at the places ``own``, in the order of the data sets.

        Args:
            kind: Task and protocol.
            own: Consecutive places among all prepared questions.
        """
        samples = self._sampled(kind, own)
        return [_with_sample(b, samples.get(b.dataset)) for b in self._boards(kind, own)]

    def _sampled(self, kind: Kind, own: range) -> dict[str, Board]:
        """By data set the board that methods learn from; {} where they learn from ``own``."""
        if self._samples is None or self._samples[0] != kind:
            self._samples = None  # before the next is read
            places = self._sample_places(kind[0])
            is_all = len(own) == len(self._questions) and places is None
            found = [] if is_all else self._boards(kind, places or range(len(self._questions)))
            self._samples = kind, {board.dataset: board for board in found}
        return self._samples[1]

    def _sample_places(self, task: Task) -> Sequence[int] | None:
        """Places of the questions that methods learn from; None: of all."""
        counts = Counter((q.dataset, q.split) for q in self._questions if q.task == task)
        if all(count <= MOST_LEARNED[split] for (_, split), count in counts.items()):
            return None
        seen: Counter[tuple[str, str]] = Counter()
        places = array("q")
        for place, question in enumerate(self._questions):
            key = question.dataset, question.split
            if question.task == task:
                most = min(MOST_LEARNED[question.split], counts[key])
                if (seen[key] + 1) * most // counts[key] > seen[key] * most // counts[key]:
                    places.append(place)
                seen[key] += 1
        return places

    def _boards(self, kind: Kind, places: Sequence[int]) -> list[Board]:
        task, protocol = kind
        wanted = set(places) if not isinstance(places, range) else places
        span = range(places[0], places[-1] + 1) if places else range(0)
        asked = [
            (place, question)
            for place, question in _at(self._questions, span)
            if question.task == task and place in wanted
        ]
        questions, own = [q for _, q in asked], [place for place, _ in asked]
        ids = {question.id for question in questions}
        candidates = (
            candidate
            for candidate in self._candidates.records(own)  # in the order of the experts' files
            if candidate.question_id in ids and candidate.protocol == protocol
        )
        scores = self._scores.records(own) if task == "long" else iter(())
        boards = build_boards(questions, candidates, (s for s in scores if s.question_id in ids))
        return [replace(board, words=self._words.get(board.dataset)) for board in boards]

    @cached_property
    def _words(self) -> dict[str, bool]:
        """Of each data set with options, whether all its questions offer yes, no and maybe."""
        found: dict[str, bool] = {}
        for question in self._questions:
            if question.task == "mcq":
                known = found.get(question.dataset, True)
                found[question.dataset] = known and are_word_labels(question.options or ())
        return found


def _with_sample(board: Board, sample: Board | None) -> Board:
    """The board with what it learns from, and with every metric of it; NaN where it has none."""
    if sample is None:
        return board
    empty = np.full(len(board.candidates), np.nan)
    scores = {**dict.fromkeys(sample.scores, empty), **board.scores}
    return replace(board, sample=sample, scores=scores)


def _at(questions: Sequence[Question], span: range) -> Iterator[tuple[int, Question]]:
    if len(span) == len(questions):
        yield from enumerate(questions)
        return
    for place in span:
        yield place, questions[place]


class Cursor(Generic[R]):
    """Records in the order of their questions, taken a range of questions at a time.

    Args:
        records: Each with a ``question_id``.
        source: What they are, for messages.
    """

    def __init__(self, records: Iterable[R], source: str) -> None:
        self._records: Iterator[R] = iter(records)
        self._source = source
        self._next: R | None = next(self._records, None)

    def take(self, ids: Collection[str]) -> list[R]:
        """The records up to the first one of another question."""
        taken: list[R] = []
        while self._next is not None and getattr(self._next, "question_id", None) in ids:
            taken.append(self._next)
            self._next = next(self._records, None)
        return taken

    def check_end(self) -> None:
        """Check that all records are taken.

        Raises:
            DataError: One is left: they stand in another order than the questions.
        """
        if self._next is not None:
            value = getattr(self._next, "question_id", None)
            fix = "delete the folders of that stage and of evaluate, and run both again"
            problem = f"records of {self._source} stand in another order than the questions"
            raise DataError(problem, value=value, fix=fix)
