"""Methods that follow a ranker: the candidate with rank 1 is the answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from blender_med.errors import DataError
from blender_med.rankers.confidence import Confidence, shortage
from blender_med.records import Answer, Ranking
from blender_med.stages.methods.board import Board

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A ranking on a board: its question, the row of its first candidate, and all scores.

    Of candidates that are the same answer (equal texts, or the same option) only the highest
    score is kept.
    """

    ranking: Ranking
    index: int
    first: int
    scores: list[float]


def top_ranked(
    board: Board, rankings: Iterable[Ranking], confidence: Confidence | None = None
) -> Iterator[Answer]:
    """Answers of the rankings' methods; ties on rank 1 go to the candidate that stands first.

    An answer costs what every candidate cost, and what the ranker read and took on top. Rankings
    of questions or of a protocol that are not on the board are passed over.

    Args:
        board: The frozen candidates.
        rankings: Of one ranker.
        confidence: What makes a probability of its scores; None: the answers have none.

    Raises:
        DataError: A ranking names a candidate that its question does not have.
    """
    for placed in _placed(board, rankings):
        yield _answer(board, placed, confidence(placed.scores) if confidence else None)


def ranker_confidence(
    board: Board, method: str, rankings: Iterable[Ranking], metric: str
) -> Confidence | None:
    """The confidence of a ranker on a board, learned from its dev questions alone.

    It is the probability that no candidate is better by ``metric``, and for multiple choice that
    the answer is right. None, with a message in the log, where dev says too little.

    Args:
        board: With the labels: the values of ``metric``.
        method: Name of the ranker.
        rankings: Its rankings.
        metric: The primary metric.

    Raises:
        DataError: A ranking names a candidate that its question does not have.
    """

    def learn(source: Board) -> Confidence | None:
        return _confidence(source, method, rankings, metric)

    return board.learned(("confidence", method, metric), learn)


def _confidence(
    board: Board, method: str, rankings: Iterable[Ranking], metric: str
) -> Confidence | None:
    scores: list[list[float]] = []
    outcomes: list[bool] = []
    for placed in _placed(board, rankings):
        is_best = board.is_best(metric, placed.index, placed.first)
        if board.questions[placed.index].split == "dev" and is_best is not None:
            scores.append(placed.scores)
            outcomes.append(is_best)
    if lacking := shortage(outcomes):
        logger.info("%s has no confidence on %s: dev has %s", method, board.name, lacking)
        return None
    return Confidence.fit(scores, outcomes)


def _placed(board: Board, rankings: Iterable[Ranking]) -> Iterator[_Placed]:
    places = {question.id: index for index, question in enumerate(board.questions)}
    for ranking in rankings:
        index = places.get(ranking.question_id)
        if index is not None and ranking.candidates and ranking.protocol == board.protocol:
            yield _place(board, index, ranking)


def _place(board: Board, index: int, ranking: Ranking) -> _Placed:
    known = {board.candidates[row].key: row for row in board.rows(index)}
    rows = [row_of(known, key, ranking.method) for key in ranking.candidates]
    best: dict[str | int, float] = {}
    for row, score in zip(rows, ranking.scores, strict=True):
        answer = int(board.choices[row]) if board.task == "mcq" else board.candidates[row].text
        best[answer] = max(score, best.get(answer, score))
    return _Placed(ranking, index, rows[ranking.ranks.index(min(ranking.ranks))], [*best.values()])


def row_of(known: Mapping[str, int], key: str, method: str) -> int:
    """Row of a candidate that a ranking names by its key.

    Raises:
        DataError: The question has no such candidate.
    """
    if key not in known:
        problem = f"method {method} ranks a candidate that does not exist"
        raise DataError(problem, value=key, fix="run stage rank again after generate")
    return known[key]


def _answer(board: Board, placed: _Placed, confidence: float | None) -> Answer:
    ranking, paid = placed.ranking, board.rows(placed.index)
    answer = board.answer(
        ranking.method, placed.index, placed.first, paid=paid, confidence=confidence
    )
    return replace(
        answer,
        tokens=answer.tokens + ranking.tokens,
        seconds=answer.seconds + ranking.seconds,
        comparisons=ranking.comparisons,
    )
