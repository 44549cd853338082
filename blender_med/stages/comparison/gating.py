"""What the gates of embedding fusers did, and how far their seeds differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from blender_med.records import FusedChoice
from blender_med.stages.comparison.compare import Comparison
from blender_med.stages.comparison.rows import Block
from blender_med.stages.methods.board import Board
from blender_med.stages.methods.gated import PROTOCOL


@dataclass(frozen=True, slots=True)
class GatingRow:
    """One embedding fuser on a block.

    Attributes:
        fuser: Fuser whose choices these are; another than ``method`` where that is the best of
            several.
        n: Questions.
        accuracy: Of the mean of the seeds; None where no right answer is known.
        seeds: Accuracy of each seed alone.
        weights: Mean weight of each expert.
        shares: Share of the questions for which each expert has a weight.
    """

    block: Block
    method: str
    fuser: str
    n: int
    accuracy: float | None
    seeds: tuple[float, ...]
    weights: Mapping[str, float]
    shares: Mapping[str, float]

    @property
    def seed_mean(self) -> float | None:
        """Mean accuracy of a seed."""
        return float(np.mean(self.seeds)) if self.seeds else None

    @property
    def seed_deviation(self) -> float | None:
        """Sample standard deviation of it; None with fewer than two seeds."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


def gating_rows(
    comparison: Comparison, choices: Mapping[str, Iterable[FusedChoice]]
) -> Iterator[GatingRow]:
    """Rows by block and method.

    Args:
        comparison: Of the run.
        choices: Of each embedding fuser, by the name of the method; routed methods left out.
    """
    for board in (own[0].board for own in comparison.outcomes):
        if board.task != "mcq" or board.protocol != PROTOCOL:
            continue
        places = {question.id: index for index, question in enumerate(board.questions)}
        for method, own in choices.items():
            by_split: dict[str, list[FusedChoice]] = defaultdict(list)
            for choice in own:
                if choice.question_id in places:
                    by_split[board.questions[places[choice.question_id]].split].append(choice)
            for block in comparison.blocks(board):
                if by_split[block.split]:
                    yield _row(block, board, method, by_split[block.split], places)


def _row(
    block: Block,
    board: Board,
    method: str,
    choices: list[FusedChoice],
    places: Mapping[str, int],
) -> GatingRow:
    gold = board.gold[[places[c.question_id] for c in choices]]
    known = gold >= 0
    chosen = np.array([c.choice_index for c in choices])
    of_seeds = np.array([c.seed_choices for c in choices])
    weights = np.array([c.weights for c in choices])
    right = (of_seeds == gold[:, None])[known]
    experts = choices[0].experts
    return GatingRow(
        block=block,
        method=method,
        fuser=choices[0].fuser,
        n=len(choices),
        accuracy=float((chosen == gold)[known].mean()) if known.any() else None,
        seeds=tuple(float(mean) for mean in right.mean(axis=0)) if known.any() else (),
        weights=dict(zip(experts, weights.mean(axis=0).tolist(), strict=True)),
        shares=dict(zip(experts, (weights > 0).mean(axis=0).tolist(), strict=True)),
    )
