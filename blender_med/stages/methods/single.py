"""Methods that repeat one candidate: an expert, the best one, a random one, the oracle's pick.

``constant`` stands here too: it repeats one label and asks no expert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

import numpy as np

from blender_med.errors import DataError
from blender_med.records import Answer
from blender_med.stages.methods import BEST_SINGLE, METHOD_SPECS, MethodSettings
from blender_med.stages.methods.board import Board, Ints
from blender_med.stages.methods.sureness import own_confidence


def expert(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """First sample of one expert; a question for which it has none gets no answer."""
    return _repeat(board, f"expert:{argument}", board.first_sample(argument))


def best_single(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """First sample of the expert with the best mean primary metric on dev; never looks at test.

    Ties go to the expert that stands first. ``experts_used`` names the one chosen.

    Raises:
        DataError: No dev question has a scored candidate.
    """
    return _repeat(board, BEST_SINGLE, board.first_sample(best_expert(board, settings)))


def best_expert(board: Board, settings: MethodSettings) -> str:
    """Name of the expert that ``best_single`` follows; see there."""
    metric = settings.primary(board.task)
    return board.learned((BEST_SINGLE, metric), lambda source: _best_expert(source, metric))


def _best_expert(board: Board, metric: str) -> str:
    means = {name: board.mean_score(name, metric, "dev")[0] for name in board.experts}
    known = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    if not known:
        raise missing_split(board, BEST_SINGLE)
    return max(known, key=lambda name: known[name])


def missing_split(board: Board, method: str) -> DataError:
    """The error of a method that has nothing to learn from."""
    splits = " or ".join(METHOD_SPECS[method].fitted)
    fix = (
        "give the data a dev split, for example splits: {dev: 0.3, test: 0.7} in stage prepare,"
        " or leave the method out of 'methods' of stage evaluate"
    )
    problem = f"method needs a {splits} question with a known answer; {board.name} has none"
    return DataError(problem, value=method, fix=fix)


def random_pick(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """One candidate, drawn evenly with a seed made of the run's seed and the question id."""
    picked = np.full(len(board.questions), -1)
    for index, question in enumerate(board.questions):
        rows = board.rows(index)
        digest = sha256(f"{settings.seed}\n{question.id}".encode("utf-8", "surrogatepass"))
        picked[index] = rows[int.from_bytes(digest.digest()) % len(rows)]
    return _repeat(board, "random", picked)


def oracle(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """Candidate with the best metric (the primary one without an argument): an upper bound.

    Ties go to the candidate that stands first. A question without scores gets no answer.
    """
    values = board.metric(argument or settings.primary(board.task))
    picked = np.full(len(board.questions), -1)
    for index in range(len(board.questions)):
        rows = board.rows(index)
        own = values[rows.start : rows.stop]
        if not np.isnan(own).all():
            picked[index] = rows.start + int(np.nanargmax(own))
    method = f"oracle:{argument}" if argument else "oracle"
    return _repeat(board, method, picked, pays_for_all=True)


def constant(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """The most frequent right label of train and dev, for every question; asks no expert.

    ``confidence`` is how frequent it is there.
    Ties go to the first label. A question that lacks the option gets an answer without choice.

    Raises:
        DataError: No train or dev question has a known right option.
    """
    counts = board.learned("constant", _label_counts)
    if not counts:
        raise missing_split(board, "constant")
    label, frequency = counts.most_common(1)[0]
    for index, question in enumerate(board.questions):
        known = label in board.labels
        choice = board.option_of(index, board.labels.index(label)) if known else None
        text = "" if choice is None else (question.options or ())[choice]
        yield board.answer(
            "constant", index, None, paid=(), text=text, choice=choice,
            confidence=None if choice is None else frequency / counts.total(),
        )  # fmt: skip


def _label_counts(board: Board) -> Counter[str]:
    """How often each label is right in train and dev, in the order of the labels."""
    fitted = METHOD_SPECS["constant"].fitted
    learn = [question.split in fitted for question in board.questions]
    seen = board.label_numbers(board.gold)[learn]
    return Counter(board.labels[number] for number in sorted(seen[seen >= 0].tolist()))


def _repeat(
    board: Board, method: str, picked: Ints, *, pays_for_all: bool = False
) -> Iterator[Answer]:
    for index in np.flatnonzero(picked >= 0).tolist():
        row = int(picked[index])
        paid = board.rows(index) if pays_for_all else (row,)
        # An upper bound is sure of nothing: it looks at the reference.
        confidence = None if pays_for_all else own_confidence(board.candidates[row])
        yield board.answer(method, index, row, paid=paid, confidence=confidence)
