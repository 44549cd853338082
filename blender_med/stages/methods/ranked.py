"""Methods that follow a ranker: the candidate with rank 1 is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from blender_med.errors import DataError
from blender_med.records import Answer, Ranking
from blender_med.stages.methods.board import Board


def top_ranked(board: Board, rankings: Iterable[Ranking]) -> Iterator[Answer]:
    """Answers of the rankings' methods; ties on rank 1 go to the candidate that stands first.

    An answer costs what every candidate cost, and what the ranker read and took on top. Rankings
    of questions or of a protocol that are not on the board are passed over.

    Raises:
        DataError: A ranking names a candidate that its question does not have.
    """
    places = {question.id: index for index, question in enumerate(board.questions)}
    for ranking in rankings:
        index = places.get(ranking.question_id)
        if index is not None and ranking.candidates and ranking.protocol == board.protocol:
            yield _answer(board, index, ranking)


def _answer(board: Board, index: int, ranking: Ranking) -> Answer:
    best = min(range(len(ranking.ranks)), key=lambda i: ranking.ranks[i])
    rows = {board.candidates[row].key: row for row in board.rows(index)}
    if ranking.candidates[best] not in rows:
        problem = f"method {ranking.method} ranks a candidate that does not exist"
        fix = "run stage rank again after generate"
        raise DataError(problem, value=ranking.candidates[best], fix=fix)
    row = rows[ranking.candidates[best]]
    answer = board.answer(
        ranking.method, index, row, paid=rows.values(), confidence=ranking.confidence
    )
    return replace(
        answer,
        tokens=answer.tokens + ranking.tokens,
        seconds=answer.seconds + ranking.seconds,
        comparisons=ranking.comparisons,
    )
