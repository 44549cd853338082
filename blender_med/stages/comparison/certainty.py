"""How well each ranker knows when its answer is the best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from blender_med.metrics.calibration import aurc, ece
from blender_med.stages.comparison.compare import Comparison
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Certainty, RankingRow
from blender_med.stages.methods.board import Ints


def with_certainty(rows: Iterable[RankingRow], comparison: Comparison) -> Iterator[RankingRow]:
    """``rows`` with the certainty of the rankers' answers, in the rows of the primary metric.

    Args:
        rows: From ``ranking_rows``.
        comparison: Of the same boards.
    """
    outcomes = {
        (o.board.dataset, o.board.task, o.board.protocol, o.method): o
        for own in comparison.outcomes
        for o in own
    }
    for row in rows:
        block = row.block
        outcome = outcomes.get((block.dataset, block.task, block.protocol, row.method))
        if outcome is None or row.label != comparison.settings.primary(block.task):
            yield row
        else:
            indices = outcome.board.split_indices(block.split)
            yield replace(row, certainty=certainty(outcome, indices, row.label))


def certainty(outcome: Outcome, indices: Ints, metric: str) -> Certainty | None:
    """What the confidence of a ranker's answers is worth on some questions.

    Args:
        outcome: Answers that repeat candidates.
        indices: The questions.
        metric: Says which candidate is the best.

    Returns:
        None where no question has a confidence and labels.
    """
    sure: list[float] = []
    right: list[bool] = []
    for index in indices[~np.isnan(outcome.confidence[indices])].tolist():
        is_best = outcome.board.is_best(metric, index, int(outcome.row[index]))
        if is_best is not None:
            sure.append(float(outcome.confidence[index]))
            right.append(is_best)
    if not sure:
        return None
    losses = 1 - np.array(right, dtype=np.float64)
    return Certainty(len(sure), float(losses.mean()), aurc(sure, losses), ece(sure, right))
