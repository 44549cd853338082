"""The experts against each other: who wins how often, and what two gain together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block
from blender_med.stages.methods.board import Board, Floats, Ints


@dataclass(frozen=True, slots=True)
class DuelRow:
    """Two experts on the questions that both answered, by the first sample of each.

    Attributes:
        wins: Questions on which ``expert`` is better than ``rival``.
        ties: Questions on which they are equal.
        complementarity: Primary metric of the better answer of the two on each question, less
            that of the better expert: what a perfect choice between them would gain.
    """

    block: Block
    expert: str
    rival: str
    n: int
    wins: int
    ties: int
    complementarity: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Share of a method's ``n`` repeated candidates that are ``expert``'s."""

    block: Block
    method: str
    expert: str
    n: int
    share: float


def duel_rows(block: Block, board: Board, indices: Ints, primary: str) -> Iterator[DuelRow]:
    """Every pair of experts once, by the first sample of each; a pair needs a common question."""
    values = {expert: _values(board, expert, primary)[indices] for expert in board.experts}
    for expert, rival in combinations(values, 2):
        known = ~np.isnan(values[expert] + values[rival])
        own, other = values[expert][known], values[rival][known]
        if known.any():
            yield DuelRow(
                block=block,
                expert=expert,
                rival=rival,
                n=int(known.sum()),
                wins=int((own > other).sum()),
                ties=int((own == other).sum()),
                complementarity=float(
                    np.maximum(own, other).mean() - max(own.mean(), other.mean())
                ),
            )


def _values(board: Board, expert: str, primary: str) -> Floats:
    rows = board.first_sample(expert)
    return np.where(rows >= 0, board.metric(primary)[rows], np.nan)


def usage_rows(block: Block, outcome: Outcome, indices: Ints) -> Iterator[UsageRow]:
    """Share of the answers that repeat a candidate of each expert; none for new texts alone."""
    board = outcome.board
    taken = [board.candidates[row].expert for row in outcome.row[indices].tolist() if row >= 0]
    if taken:
        for expert in board.experts:
            share = taken.count(expert) / len(taken)
            yield UsageRow(block, outcome.method, expert, len(taken), share)
