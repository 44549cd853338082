"""Why the methods do as they do: headroom, experts, certainty, state of the candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blender_med.metrics.calibration import risk_coverage
from blender_med.records import Candidate
from blender_med.stages.comparison.compare import Comparison
from blender_med.stages.comparison.estimates import Resampling, is_upper_bound
from blender_med.stages.comparison.experts import DuelRow, UsageRow, duel_rows, usage_rows
from blender_med.stages.comparison.headroom import HeadroomRow, Tops, headroom_rows
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block
from blender_med.stages.methods.board import Board, Ints

_MOST_POINTS = 60


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """Risk of answering only the surest ``coverage`` of ``n`` questions."""

    block: Block
    method: str
    n: int
    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class QualityRow:
    """State of one expert's candidates, as counts.

    Attributes:
        empty: Without any text.
        cut: Ended by the limit of tokens.
        refused: The prompt did not fit the model.
        truncated: Context was cut to fit the model.
        unparsed: Without a choice (mcq); None for long answers.
    """

    block: Block
    expert: str
    candidates: int
    empty: int
    cut: int
    refused: int
    truncated: int
    unparsed: int | None


@dataclass(frozen=True)
class Diagnosis:
    """Rows of every block, in the order of the comparison."""

    headroom: list[HeadroomRow]
    duels: list[DuelRow]
    usage: list[UsageRow]
    coverage: list[CoverageRow]
    quality: list[QualityRow]


def diagnose(comparison: Comparison, resampling: Resampling, tops: Tops) -> Diagnosis:
    """Diagnosis of a comparison.

    Args:
        comparison: From ``compare``.
        resampling: Of the intervals.
        tops: Candidates that the methods with new texts started from.
    """
    result = Diagnosis([], [], [], [], [])
    for outcomes in comparison.outcomes:
        board = outcomes[0].board
        primary = comparison.settings.primary(board.task)
        for block in comparison.blocks(board):
            indices = board.split_indices(block.split)
            present = [o for o in outcomes if o.answered[indices].any()]
            rows = headroom_rows(block, present, indices, primary, resampling, tops)
            result.headroom.extend(rows)
            result.duels.extend(duel_rows(block, board, indices, primary))
            result.quality.extend(quality_rows(block, board, indices))
            for outcome in (o for o in present if not is_upper_bound(o.method)):
                result.usage.extend(usage_rows(block, outcome, indices))
                result.coverage.extend(coverage_rows(block, outcome, indices, primary))
    return result


def coverage_rows(
    block: Block, outcome: Outcome, indices: Ints, primary: str
) -> Iterator[CoverageRow]:
    """Points of the risk-coverage curve, at most 60; none for a method without a confidence.

    Risk is the share of wrong answers (multiple choice), else of answers that are not the best
    candidate.
    """
    sure, losses = _losses(outcome, indices, primary)
    if not sure:
        return
    curve = risk_coverage(sure, losses)
    last = len(curve.risk) - 1
    for point in np.unique(np.linspace(0, last, _MOST_POINTS).round().astype(int)).tolist():
        coverage, risk = float(curve.coverage[point]), float(curve.risk[point])
        yield CoverageRow(block, outcome.method, len(sure), coverage, risk)


def _losses(outcome: Outcome, indices: Ints, primary: str) -> tuple[list[float], list[float]]:
    """Confidence and loss of the questions that have both."""
    board, right = outcome.board, outcome.correct()
    sure: list[float] = []
    losses: list[float] = []
    for index in indices[~np.isnan(outcome.confidence[indices])].tolist():
        row = int(outcome.row[index])
        is_right: float | bool | None = right[index]
        if board.task == "long":
            is_right = board.is_best(primary, index, row) if row >= 0 else None
        if is_right is not None and not np.isnan(is_right):
            sure.append(float(outcome.confidence[index]))
            losses.append(1.0 - float(is_right))
    return sure, losses


def quality_rows(block: Block, board: Board, indices: Ints) -> Iterator[QualityRow]:
    """State of each expert's candidates."""
    found = [board.candidates[row] for index in indices.tolist() for row in board.rows(index)]
    for expert in board.experts:
        own = [candidate for candidate in found if candidate.expert == expert]
        if own:
            yield _quality(block, expert, own)


def _quality(block: Block, expert: str, own: Sequence[Candidate]) -> QualityRow:
    return QualityRow(
        block=block,
        expert=expert,
        candidates=len(own),
        empty=sum(not c.text.strip() for c in own),
        cut=sum(c.finish_reason == "length" for c in own),
        refused=sum(c.finish_reason == "prompt_too_long" for c in own),
        truncated=sum(c.truncated_tokens > 0 for c in own),
        unparsed=sum(c.choice_index is None for c in own) if block.task == "mcq" else None,
    )
