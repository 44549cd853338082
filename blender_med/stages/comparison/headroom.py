"""Where the best possible choice among the candidates is lost on the way to the final answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blender_med.stages.comparison.estimates import (
    Resampling,
    is_upper_bound,
    mean_estimates,
    question_groups,
)
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block, Estimate
from blender_med.stages.methods import BEST_SINGLE
from blender_med.stages.methods.board import Board, Floats, Ints

# Key of the candidate that a method started from, by method and by question id and protocol.
Tops = Mapping[str, Mapping[tuple[str, str], str]]


@dataclass(frozen=True, slots=True)
class HeadroomRow:
    """How much of the best possible choice among the candidates a method realises.

    Attributes:
        metric: The primary metric.
        n: Questions on which the method, ``best_single`` and the oracle have a value.
        best_single: Mean of the best single expert.
        oracle: Mean of the best candidate of each question.
        parts: Means over the questions. ``headroom`` (oracle - best_single) is the sum of
            ``gain`` (method - best_single), ``ranker_regret`` (oracle - candidate ranked first)
            and ``fuser_corruption`` (candidate ranked first - answer; below 0 where fusing
            improves on it). The last two are missing where it is not known which candidate came
            first.
        corrupted: Share of the questions whose answer is worse than the candidate ranked first.
        repaired: Share whose answer is better than it.
        unanimous_error: Share without any right candidate, which no choice can mend; None for
            long answers, which are not right or wrong.
    """

    block: Block
    method: str
    metric: str
    n: int
    best_single: float
    oracle: float
    parts: Mapping[str, Estimate]
    corrupted: float | None
    repaired: float | None
    unanimous_error: float | None


def headroom_rows(
    block: Block,
    outcomes: Sequence[Outcome],
    indices: Ints,
    primary: str,
    resampling: Resampling,
    tops: Tops,
) -> Iterator[HeadroomRow]:
    """One row per method; without ``best_single`` there are none.

    ``headroom = gain + ranker_regret + fuser_corruption`` holds question by question. Methods that
    look at the reference answers are left out.

    Args:
        block: What the rows are about.
        outcomes: Of one board, those with an answer in the block.
        indices: The questions of the block.
        primary: Metric of the candidates that decides, as in ``Board.scores``.
        resampling: Of the intervals.
        tops: For the methods that write new texts; without it their loss is not split.
    """
    by_method = {outcome.method: outcome for outcome in outcomes}
    if BEST_SINGLE not in by_method:
        return
    best = by_method[BEST_SINGLE].primary(primary)
    oracle = oracle_values(outcomes[0].board, primary)
    for outcome in outcomes:
        if not is_upper_bound(outcome.method):
            final = outcome.primary(primary)
            first = _first_choice(outcome, tops.get(outcome.method), final, primary)
            values = {"best": best, "oracle": oracle, "first": first, "final": final}
            row = _row(block, outcome, indices, primary, values, resampling)
            if row is not None:
                yield row


def oracle_values(board: Board, primary: str) -> Floats:
    """Value of the best candidate of each question, [n]; NaN where none has a value."""
    values = board.metric(primary)
    filled = np.where(np.isnan(values), -np.inf, values)
    best = np.maximum.reduceat(filled, board.offsets[:-1]) if len(values) else filled
    return np.where(np.isinf(best), np.nan, best)


def _first_choice(
    outcome: Outcome, tops: Mapping[tuple[str, str], str] | None, final: Floats, primary: str
) -> Floats | None:
    """Value of the candidate chosen before fusing, [n]; None where it is not known.

    A method without new texts chooses its answer itself.
    """
    if tops is None:
        return None if outcome.texts else final
    board, found = outcome.board, np.full(len(final), np.nan)
    values = board.metric(primary)
    for index, question in enumerate(board.questions):
        top = tops.get((question.id, board.protocol))
        for row in board.rows(index):
            if board.candidates[row].key == top:
                found[index] = values[row]
    return found


def _row(
    block: Block,
    outcome: Outcome,
    indices: Ints,
    primary: str,
    values: Mapping[str, Floats | None],
    resampling: Resampling,
) -> HeadroomRow | None:
    own = {name: v[indices] for name, v in values.items() if v is not None}
    known = ~np.isnan(np.column_stack(list(own.values()))).any(axis=1)
    if not known.any():
        return None
    kept = {name: v[known] for name, v in own.items()}
    groups = question_groups(outcome.board, indices[known])
    is_choice = block.task == "mcq"
    return HeadroomRow(
        block=block,
        method=outcome.method,
        metric="accuracy" if is_choice else primary,
        n=int(known.sum()),
        best_single=float(kept["best"].mean()),
        oracle=float(kept["oracle"].mean()),
        parts=mean_estimates(_parts(kept), resampling, groups),
        corrupted=float((kept["final"] < kept["first"]).mean()) if "first" in kept else None,
        repaired=float((kept["final"] > kept["first"]).mean()) if "first" in kept else None,
        unanimous_error=float((kept["oracle"] == 0).mean()) if is_choice else None,
    )


def _parts(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """What becomes of oracle - best, [n] each; the parts of the choice only where it is known."""
    parts = {
        "headroom": values["oracle"] - values["best"],
        "gain": values["final"] - values["best"],
    }
    if "first" in values:
        parts["ranker_regret"] = values["oracle"] - values["first"]
        parts["fuser_corruption"] = values["first"] - values["final"]
    return parts
