"""Minimum Bayes risk decoding over the candidates (long answers)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.records import Answer
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import Board, Floats

Utility = Callable[[Sequence[str], Sequence[str]], list[float]]

UTILITIES = tuple(
    name
    for name, spec in METRIC_SPECS.items()
    if spec.task == "long" and spec.directed and spec.model is None
)


def mbr(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """The candidate with the highest mean utility against the other candidates as references.

    Kumar and Byrne 2004, eq. 3, with the candidates as the sample of the posterior. No reference
    answer is looked at. Ties go to the candidate that stands first; one candidate is its own
    answer.

    Raises:
        ConfigError: ``mbr_utility`` is no text metric, or only describes.
    """
    utility = _utility(settings.mbr_utility)
    for index in range(len(board.questions)):
        rows = board.rows(index)
        expected = expected_utilities([board.candidates[r].text for r in rows], utility)
        yield board.answer("mbr", index, rows[int(np.argmax(expected))], paid=rows)


def expected_utilities(texts: Sequence[str], utility: Utility) -> Floats:
    """Mean utility of each text against the others, [n]; zeros for n = 1.

    Equal texts are compared once: each counts as often as it occurs.
    """
    if len(texts) < 2:
        return np.zeros(len(texts))
    counts = Counter(texts)
    distinct = list(counts)
    size = len(distinct)
    hypotheses = [text for text in distinct for _ in distinct]
    pairwise = np.array(utility(hypotheses, distinct * size)).reshape(size, size)
    totals = pairwise @ np.array([counts[text] for text in distinct]) - np.diagonal(pairwise)
    means = dict(zip(distinct, totals / (len(texts) - 1), strict=True))
    return np.array([means[text] for text in texts])


def _utility(name: str) -> Utility:
    key = "mbr_utility"
    if METRICS.check(name, key=key) not in UTILITIES:
        problem = "MBR needs a text metric that says what is better and runs without a model"
        fix = f"choose one of: {', '.join(UTILITIES)}"
        raise ConfigError(problem, key=key, value=name, fix=fix)
    utility: Utility = METRICS.load(name)
    return utility
