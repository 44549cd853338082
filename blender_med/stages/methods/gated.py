"""Methods of embedding fusers: the options that they choose, and where their gates route to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blender_med.rankers.aggregate import max_logits
from blender_med.records import Answer, FusedChoice, Ranking, Route
from blender_med.stages.gate_config import ROUTE_METHOD
from blender_med.stages.methods.board import Board
from blender_med.stages.methods.ranked import row_of
from blender_med.stages.methods.sureness import own_confidence

PROTOCOL = "lm_eval"  # the fusers read a question with its options as that protocol puts it


def fused_options(board: Board, choices: Iterable[FusedChoice]) -> Iterator[Answer]:
    """The option with the highest probability, which is its ``confidence``.

    An answer costs what the experts read that had to. Choices of questions that are not on the
    board are passed over; on a board of another protocol or task there are none.
    """
    for index, choice in _placed(board, choices):
        options = board.questions[index].options or ()
        answer = board.answer(
            choice.method,
            index,
            None,
            paid=(),
            text=options[choice.choice_index],
            choice=choice.choice_index,
            confidence=min(1.0, max(choice.probabilities)),
        )
        yield replace(
            answer,
            experts_used=choice.experts_read,
            tokens=choice.tokens,
            seconds=choice.seconds,
            saved_tokens=choice.saved_tokens,
            saved_seconds=choice.saved_seconds,
        )


def routed_options(board: Board, method: str, choices: Iterable[FusedChoice]) -> Iterator[Answer]:
    """The own answer of the expert with the highest weight; of equals the first.

    ``confidence`` is the share of the option in that expert's likelihoods. An answer costs what
    that expert's did, and the embedding of the question; it saves what the others cost. Where the
    gate reads the experts, all of them have read the question: that is paid, and nothing saved.
    """
    firsts = {name: board.first_sample(name) for name in board.experts}
    means = board.learned("mean costs", _mean_costs)
    for index, choice in _placed(board, choices):
        expert = choice.experts[int(np.argmax(choice.weights))]
        row = int(firsts[expert][index]) if expert in firsts else -1
        if row >= 0:
            confidence = own_confidence(board.candidates[row])
            answer = board.answer(method, index, row, paid=(row,), confidence=confidence)
            if choice.routing_seconds > 0:
                yield _with_savings(board, index, answer, choice.routing_seconds, means)
            else:
                yield replace(
                    answer,
                    experts_used=choice.experts_read,
                    tokens=answer.tokens + choice.tokens,
                    seconds=answer.seconds + choice.seconds,
                )


def routed_answers(board: Board, routes: Mapping[str, Route]) -> Iterator[Answer]:
    """The answer of the expert that stage route puts first, as method ``routed``.

    An answer costs what that expert's did, and the routing. It saves what the others cost; of an
    expert that was not asked, its mean over the questions of the board that it was asked.
    """
    firsts = {name: board.first_sample(name) for name in board.experts}
    means = board.learned("mean costs", _mean_costs)
    for index, question in enumerate(board.questions):
        route = routes.get(question.id)
        row = int(firsts[route.experts[0]][index]) if route and route.experts[0] in firsts else -1
        if route is not None and row >= 0:
            confidence = own_confidence(board.candidates[row])
            answer = board.answer(ROUTE_METHOD, index, row, paid=(row,), confidence=confidence)
            yield _with_savings(board, index, answer, route.seconds, means)


def routed_ranked(
    board: Board, method: str, rankings: Iterable[Ranking], routes: Mapping[str, Route]
) -> Iterator[Answer]:
    """The candidate that a ranker puts first among those of the routed experts.

    It pays for these candidates, for the routing, and for its share of the ranking: that of the
    comparisons among them where pairs were compared, else that of the candidates. Where all of
    these have met, their own logits alone decide (MaxLogits), else the scores of the ranking.

    Raises:
        DataError: A ranking names a candidate that its question does not have.
    """
    places = {question.id: index for index, question in enumerate(board.questions)}
    for ranking in rankings:
        route, index = routes.get(ranking.question_id), places.get(ranking.question_id)
        if route is None or index is None or ranking.protocol != board.protocol:
            continue
        known = {board.candidates[row].key: row for row in board.rows(index)}
        rows = [row_of(known, key, ranking.method) for key in ranking.candidates]
        own = [i for i, row in enumerate(rows) if board.candidates[row].expert in route.experts]
        if own:
            paid = [rows[i] for i in own]
            best = paid[int(np.argmax(_scores_among(ranking, own)))]
            answer = _with_ranking(board.answer(method, index, best, paid=paid), ranking, own)
            yield _with_all_savings(board, index, answer, route.seconds)


def _scores_among(ranking: Ranking, own: Sequence[int]) -> NDArray[np.float64]:
    """Scores of these candidates of a ranking, as if there were no others if they all met."""
    scores = np.array(ranking.scores)[list(own)]
    if ranking.pairwise_logits is None or len(own) == len(ranking.scores):
        return scores
    logits = np.array(ranking.pairwise_logits, dtype=np.float64)[np.ix_(own, own)]
    met = _compared(logits).sum() == len(own) * (len(own) - 1)
    return np.asarray(max_logits(logits), dtype=np.float64) if met else scores


def _compared(logits: NDArray[np.float64]) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = ~np.isnan(logits) & ~np.eye(len(logits), dtype=bool)
    return known


def _with_ranking(answer: Answer, ranking: Ranking, own: Sequence[int]) -> Answer:
    """With what the ranking of these candidates costs beside the answers."""
    share = len(own) / len(ranking.candidates)
    if ranking.pairwise_logits is not None:
        made = _compared(np.array(ranking.pairwise_logits, dtype=np.float64))
        share = float(made[np.ix_(own, own)].sum() / max(1, made.sum()))
    return replace(
        answer,
        tokens=answer.tokens + round(share * ranking.tokens),
        seconds=answer.seconds + share * ranking.seconds,
        comparisons=round(share * ranking.comparisons),
    )


def _with_all_savings(board: Board, index: int, answer: Answer, seconds: float) -> Answer:
    """With the routing, and with all that the experts which were not asked would have cost."""
    candidates = [board.candidates[row] for row in board.rows(index)]
    spared = [c for c in candidates if c.expert not in answer.experts_used]
    prompts = {c.expert: c.prompt_tokens for c in spared}
    return replace(
        answer,
        seconds=answer.seconds + seconds,
        saved_tokens=sum(prompts.values()) + sum(c.completion_tokens for c in spared),
        saved_seconds=sum(c.seconds for c in spared),
    )


def _with_savings(
    board: Board,
    index: int,
    answer: Answer,
    routing_seconds: float,
    means: Mapping[str, tuple[float, float]],
) -> Answer:
    own = {board.candidates[row].expert: board.candidates[row] for row in board.rows(index)[::-1]}
    saved = [
        (c.prompt_tokens + c.completion_tokens, c.seconds)
        if (c := own.get(name))
        else means.get(name, (0.0, 0.0))
        for name in board.experts
        if name not in answer.experts_used
    ]
    return replace(
        answer,
        seconds=answer.seconds + routing_seconds,
        saved_tokens=round(sum(tokens for tokens, _ in saved)),
        saved_seconds=sum(seconds for _, seconds in saved),
    )


def _mean_costs(board: Board) -> dict[str, tuple[float, float]]:
    """Mean tokens and seconds of the first sample of each expert."""
    means = {}
    for name in board.experts:
        rows = [board.candidates[row] for row in board.first_sample(name).tolist() if row >= 0]
        tokens = sum(c.prompt_tokens + c.completion_tokens for c in rows) / len(rows)
        means[name] = tokens, sum(c.seconds for c in rows) / len(rows)
    return means


def _placed(board: Board, choices: Iterable[FusedChoice]) -> Iterator[tuple[int, FusedChoice]]:
    if board.task != "mcq" or board.protocol != PROTOCOL:
        return
    places = {question.id: index for index, question in enumerate(board.questions)}
    for choice in choices:
        if choice.question_id in places:
            yield places[choice.question_id], choice
