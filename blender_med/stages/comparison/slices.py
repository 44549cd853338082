"""Primary metric by property of the question: type, subject, source, length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from blender_med.records import Question
from blender_med.stages.comparison.estimates import Resampling, mean_estimates, question_groups
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block, SliceRow
from blender_med.stages.methods.board import Ints

SLICE_KEYS = ("question_type", "subject", "specialty", "source")
_WORDS = "question_words"
_KEYS = (*SLICE_KEYS, _WORDS)
_LENGTH_BANDS = (10, 25, 50, 100)
_MOST_VALUES = 50
_OTHER = "(other)"


def slice_rows(
    block: Block,
    outcomes: Sequence[Outcome],
    indices: Ints,
    primary: str,
    resampling: Resampling,
) -> Iterator[SliceRow]:
    """Rows of every slice of a block with at least two values; intervals, but no tests.

    A property with more than 50 values keeps the most frequent ones; the rest is "(other)".
    """
    board = outcomes[0].board
    values = {o.method: o.primary(primary) for o in outcomes}
    for key in _KEYS:
        for value, chosen in _slices([board.questions[i] for i in indices.tolist()], key):
            own = indices[chosen]
            groups = question_groups(board, own)
            estimates = mean_estimates({m: v[own] for m, v in values.items()}, resampling, groups)
            for method, estimate in estimates.items():
                n = int((~np.isnan(values[method][own])).sum())
                shown = type(estimate)(estimate.value, estimate.low, estimate.high, estimate.delta)
                yield SliceRow(block, key, value, method, n, primary, shown)


def _slices(questions: Sequence[Question], key: str) -> Iterator[tuple[str, np.ndarray]]:
    """Values of a property in order of size (length bands: of length), each with its places."""
    found = [_property(question, key) for question in questions]
    counts = Counter(value for value in found if value)
    if len(counts) < 2:
        return
    kept = [value for value, _ in counts.most_common(_MOST_VALUES)]
    if key == _WORDS:
        kept.sort(key=lambda band: int(band.split("-")[0].rstrip("+")))
    places = np.array([value if value in kept else _OTHER if value else "" for value in found])
    for value in [*kept, _OTHER] if len(counts) > len(kept) else kept:
        yield value, np.flatnonzero(places == value)


def question_slices(question: Question) -> dict[str, str]:
    """Properties of a question by which results are sliced, those that it has."""
    return {key: value for key in _KEYS if (value := _property(question, key))}


def _property(question: Question, key: str) -> str:
    if key == _WORDS:
        return length_band(len(question.question.split()))
    return question.meta.get(key) or ""


def length_band(words: int) -> str:
    """Band of a length in words: 1-10, 11-25, 26-50, 51-100, 101+ (0 is in the first)."""
    low = 1
    for high in _LENGTH_BANDS:
        if words <= high:
            return f"{low}-{high}"
        low = high + 1
    return f"{low}+"
