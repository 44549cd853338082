"""Methods of embedding fusers: the options that they choose, and where their gates route to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from blender_med.records import Answer, FusedChoice
from blender_med.stages.methods.board import Board
from blender_med.stages.methods.likelihood import option_logprobs

PROTOCOL = "lm_eval"  # the fusers read a question with its options as that protocol puts it


def fused_options(board: Board, choices: Iterable[FusedChoice]) -> Iterator[Answer]:
    """The option with the highest probability, which is its ``confidence``.

    An answer costs what the experts with a weight read. Choices of questions that are not on the
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
        weighed = zip(choice.experts, choice.weights, strict=True)
        used = tuple(name for name, weight in weighed if weight > 0)
        yield replace(answer, experts_used=used, tokens=choice.tokens, seconds=choice.seconds)


def routed_options(board: Board, method: str, choices: Iterable[FusedChoice]) -> Iterator[Answer]:
    """The own answer of the expert with the highest weight; of equals the first.

    ``confidence`` is the share of the option in that expert's likelihoods. An answer costs what
    that expert's did, and the embedding of the question.
    """
    firsts = {name: board.first_sample(name) for name in board.experts}
    for index, choice in _placed(board, choices):
        expert = choice.experts[int(np.argmax(choice.weights))]
        row = int(firsts[expert][index]) if expert in firsts else -1
        if row < 0:
            continue
        shares = np.exp(option_logprobs(board, index)[board.experts.index(expert)])
        confidence = None if np.isnan(shares).any() else float(min(1.0, shares.max()))
        answer = board.answer(method, index, row, paid=(row,), confidence=confidence)
        yield replace(answer, seconds=answer.seconds + choice.routing_seconds)


def _placed(board: Board, choices: Iterable[FusedChoice]) -> Iterator[tuple[int, FusedChoice]]:
    if board.task != "mcq" or board.protocol != PROTOCOL:
        return
    places = {question.id: index for index, question in enumerate(board.questions)}
    for choice in choices:
        if choice.question_id in places:
            yield places[choice.question_id], choice
