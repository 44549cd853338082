"""Methods that write: the answers of fusers and of their guards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from blender_med.errors import DataError
from blender_med.records import Answer, FusedAnswer, Ranking
from blender_med.stages.methods.board import Board

Costs = Mapping[str, tuple[int, float, int]]  # tokens, seconds, comparisons by question


def fused_methods(
    board: Board,
    fusions: Iterable[FusedAnswer],
    rankings: Mapping[str, Iterable[Ranking]],
) -> Iterator[Answer]:
    """Answers of one fuser, or of its guard.

    An answer costs what the candidates cost (all of them where a ranker ordered them, else those
    that the fuser read), what the rankers spent on the question, and what fuser and guard spent.

    Args:
        board: The frozen candidates.
        fusions: Of one method; those of questions or of a protocol that are not on the board are
            passed over.
        rankings: Those of each ranker, by its name.

    Raises:
        DataError: A fusion names a candidate that its question does not have.
    """
    places = {question.id: index for index, question in enumerate(board.questions)}
    costs: dict[str, Costs] = {}
    for fused in fusions:
        index = places.get(fused.question_id)
        if index is None or fused.protocol != board.protocol:
            continue
        for name in fused.rankers:
            if name not in costs:
                costs[name] = _costs(rankings[name], board)
        spent = [costs[name].get(fused.question_id, (0, 0.0, 0)) for name in fused.rankers]
        yield _answer(board, index, fused, spent)


def _costs(rankings: Iterable[Ranking], board: Board) -> Costs:
    return {
        ranking.question_id: (ranking.tokens, ranking.seconds, ranking.comparisons)
        for ranking in rankings
        if ranking.protocol == board.protocol
    }


def _answer(
    board: Board, index: int, fused: FusedAnswer, spent: list[tuple[int, float, int]]
) -> Answer:
    known = {board.candidates[row].key: row for row in board.rows(index)}
    for key in (*fused.shown, fused.top, *([fused.candidate] if fused.candidate else [])):
        if key not in known:
            problem = f"method {fused.method} fuses a candidate that does not exist"
            raise DataError(problem, value=key, fix="run stage fuse again after generate")
    row = known[fused.candidate] if fused.candidate is not None else None
    paid = board.rows(index) if fused.rankers else [known[key] for key in fused.shown]
    text = fused.text if row is None else None
    answer = board.answer(fused.method, index, row, paid=paid, text=text)
    own = fused.prompt_tokens + fused.completion_tokens + fused.guard_tokens
    return replace(
        answer,
        experts_used=tuple(dict.fromkeys((*answer.experts_used, *fused.experts_used))),
        tokens=answer.tokens + own + sum(tokens for tokens, _, _ in spent),
        seconds=answer.seconds + fused.seconds + sum(seconds for _, seconds, _ in spent),
        comparisons=fused.comparisons + sum(count for _, _, count in spent),
    )
