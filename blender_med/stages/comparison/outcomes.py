"""Answers of one method on one board as arrays, so that 20,000 questions stay small."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import DataError
from blender_med.metrics.choice import UNPARSED
from blender_med.records import Answer, Protocol
from blender_med.stages.methods import ORACLE
from blender_med.stages.methods.board import Board, Floats, Ints


@dataclass
class Outcome:
    """What one method answered on a board, by question.

    Attributes:
        answered: Whether there is an answer, [n].
        row: Candidate that it repeats, -1 where it is a new text, [n].
        choice: Chosen option, -1 where there is none, [n].
        confidence: [n]; NaN where the method has none.
        tokens: [n].
        seconds: [n].
        comparisons: Pairs of candidates that a ranker compared, [n].
        saved_tokens: Of experts that a gate spared, [n].
        saved_seconds: Of these experts, [n].
        experts_run: Number of experts used, [n].
        experts: Their names over all questions, in order of first use.
        texts: New texts by question.
        support: What they rest on by question, where it was checked; see ``fusers.support``.
    """

    board: Board
    method: str
    answered: NDArray[np.bool_] = field(init=False)
    row: Ints = field(init=False)
    choice: Ints = field(init=False)
    confidence: Floats = field(init=False)
    tokens: Ints = field(init=False)
    seconds: Floats = field(init=False)
    comparisons: Ints = field(init=False)
    saved_tokens: Ints = field(init=False)
    saved_seconds: Floats = field(init=False)
    experts_run: Ints = field(init=False)
    experts: dict[str, None] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    support: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.board.questions)
        self.answered = np.zeros(n, dtype=np.bool_)
        self.row, self.choice = np.full(n, -1), np.full(n, UNPARSED)
        self.tokens, self.experts_run = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.confidence, self.seconds = np.full(n, np.nan), np.zeros(n)
        self.comparisons = np.zeros(n, dtype=np.int64)
        self.saved_tokens, self.saved_seconds = np.zeros(n, dtype=np.int64), np.zeros(n)

    def add(self, index: int, answer: Answer) -> None:
        """Keep the answer to question ``index``; a later one replaces an earlier one."""
        self.answered[index] = True
        self.row[index] = self._row(index, answer)
        self.choice[index] = UNPARSED if answer.choice_index is None else answer.choice_index
        self.confidence[index] = np.nan if answer.confidence is None else answer.confidence
        self.tokens[index], self.seconds[index] = answer.tokens, answer.seconds
        self.comparisons[index] = answer.comparisons
        self.saved_tokens[index] = answer.saved_tokens
        self.saved_seconds[index] = answer.saved_seconds
        self.experts_run[index] = len(answer.experts_used)
        self.experts |= dict.fromkeys(answer.experts_used)
        if answer.candidate is None and answer.text:
            self.texts[index] = answer.text
        if answer.support is not None:
            self.support[index] = answer.support

    def _row(self, index: int, answer: Answer) -> int:
        if answer.candidate is None:
            return -1
        for row in self.board.rows(index):
            if self.board.candidates[row].key == answer.candidate:
                return row
        problem = f"the answer of method {self.method} repeats a candidate that does not exist"
        fix = "run stage evaluate again after generate"
        raise DataError(problem, value=answer.candidate, fix=fix)

    def correct(self) -> Floats:
        """1.0 right, 0.0 wrong, NaN without an answer or a known right option, [n]."""
        known = self.answered & (self.board.gold >= 0)
        right = (self.choice == self.board.gold).astype(np.float64)
        return np.where(known, right, np.nan)

    def unparsed(self) -> Floats:
        """1.0 where the answer has no choice; NaN as in :meth:`correct`, [n]."""
        missing = (self.choice == UNPARSED).astype(np.float64)
        return np.where(np.isnan(self.correct()), np.nan, missing)

    def values(self, metric: str) -> Floats:
        """Values of a text metric, [n]; NaN without an answer or a score."""
        found = np.where(self.row >= 0, self.board.metric(metric)[self.row], np.nan)
        for index in self.texts:
            key = (self.method, self.board.questions[index].id, metric)
            found[index] = self.board.answer_scores.get(key, np.nan)
        return found

    def primary(self, metric: str) -> Floats:
        """:meth:`correct` for multiple choice, else the values of ``metric``, [n]."""
        return self.correct() if self.board.task == "mcq" else self.values(metric)

    def same_answers(self, other: Outcome) -> bool:
        """Whether both give exactly the same answers."""
        return (
            np.array_equal(self.answered, other.answered)
            and np.array_equal(self.row, other.row)
            and np.array_equal(self.choice, other.choice)
            and self.texts == other.texts
        )


def collect_outcomes(boards: Sequence[Board], answers: Iterable[Answer]) -> list[list[Outcome]]:
    """Sort a stream of answers by board and method, in order of first appearance, bounds last.

    Raises:
        DataError: An answer belongs to no question of a board, or repeats no candidate.
    """
    places: dict[tuple[str, Protocol], tuple[int, int]] = {
        (question.id, board.protocol): (number, index)
        for number, board in enumerate(boards)
        for index, question in enumerate(board.questions)
    }
    found: list[dict[str, Outcome]] = [{} for _ in boards]
    for answer in answers:
        place = places.get((answer.question_id, answer.protocol))
        if place is None:
            problem = f"an answer of method {answer.method} belongs to no question with candidates"
            fix = "run stage evaluate again after generate"
            raise DataError(problem, value=answer.question_id, fix=fix)
        number, index = place
        if answer.method not in found[number]:
            found[number][answer.method] = Outcome(boards[number], answer.method)
        found[number][answer.method].add(index, answer)
    return [
        sorted(by_method.values(), key=lambda own: own.method.partition(":")[0] == ORACLE)
        for by_method in found
    ]
