"""How often fusing helped and how often it harmed, and what the fused texts rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from blender_med.fusers.support import KINDS, read_support
from blender_med.records import FusedAnswer
from blender_med.stages.comparison.compare import Comparison, is_directed
from blender_med.stages.comparison.estimates import Resampling, mean_estimates, question_groups
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block, Changes, Estimate, FusionRow
from blender_med.stages.methods import BEST_SINGLE
from blender_med.stages.methods.board import Board, Floats

_EQUAL = 1e-9
_ByIndex = dict[int, FusedAnswer]


def fusion_rows(
    comparison: Comparison,
    fusions: Mapping[str, Iterable[FusedAnswer]],
    resampling: Resampling,
) -> Iterator[FusionRow]:
    """Rows by block and method, in the order of ``fusions``.

    Args:
        comparison: With the outcomes of the methods.
        fusions: Those of each fuser and each guard, by the name of the method.
        resampling: Of the tests against the top candidates.
    """
    for outcomes in comparison.outcomes:
        board = outcomes[0].board
        by_method = {outcome.method: outcome for outcome in outcomes}
        for split in dict.fromkeys(question.split for question in board.questions):
            block = Block(board.dataset, split, board.task, board.protocol)
            indices = set(board.split_indices(split).tolist())
            for method, own in fusions.items():
                found = {i: f for i, f in _placed(board, own).items() if i in indices}
                if method in by_method and found:
                    metric = comparison.settings.primary(board.task)
                    rival = by_method.get(BEST_SINGLE)
                    yield _row(block, by_method[method], rival, found, metric, resampling)


def _placed(board: Board, fusions: Iterable[FusedAnswer]) -> _ByIndex:
    places = {question.id: index for index, question in enumerate(board.questions)}
    return {
        places[fused.question_id]: fused
        for fused in fusions
        if fused.question_id in places and fused.protocol == board.protocol
    }


def _row(
    block: Block,
    outcome: Outcome,
    rival: Outcome | None,
    fusions: _ByIndex,
    metric: str,
    resampling: Resampling,
) -> FusionRow:
    indices = sorted(fusions)
    own = [fusions[i] for i in indices]
    values = outcome.values(metric)
    top = _top_values(outcome.board, fusions, metric)
    kept = [fused.kept == "fused" for fused in own if fused.kept is not None]
    margins = [f.margin for f in own if f.margin]  # 0 where nothing was compared
    supports = [outcome.support[i] for i in indices if i in outcome.support]
    return FusionRow(
        block=block,
        method=outcome.method,
        n=len(own),
        metric=metric,
        against_top=changes(values[indices], top[indices]),
        against_best_single=(
            None if rival is None else changes(values[indices], rival.values(metric)[indices])
        ),
        outcomes=Counter(fused.outcome for fused in own),
        truncated=sum(fused.truncated_tokens > 0 for fused in own),
        kept_fused=float(np.mean(kept)) if kept else None,
        margin=float(np.mean(margins)) if margins else None,
        checked=len(supports),
        flagged=_flagged(supports),
        gains=_gains(outcome, fusions, resampling),
    )


def _gains(outcome: Outcome, fusions: _ByIndex, resampling: Resampling) -> dict[str, Estimate]:
    """Of a method against the top candidates, by metric; paired over groups of questions."""
    board, indices = outcome.board, np.array(sorted(fusions))
    groups = question_groups(board, indices)
    found = {}
    for metric in filter(is_directed, board.scores):
        top = _top_values(board, fusions, metric)[indices]
        values = {"top": top, "own": outcome.values(metric)[indices]}
        estimates = mean_estimates(values, resampling, groups, base="top")
        if "top" in estimates and "own" in estimates and estimates["own"].delta is not None:
            found[metric] = estimates["own"]
    return found


def _top_values(board: Board, fusions: _ByIndex, metric: str) -> Floats:
    """Values of the top candidates, [questions]; NaN where there is none."""
    values, found = board.metric(metric), np.full(len(board.questions), np.nan)
    for index, fused in fusions.items():
        for row in board.rows(index):
            if board.candidates[row].key == fused.top:
                found[index] = values[row]
    return found


def changes(values: Floats, rivals: Floats) -> Changes:
    """Counts of better, equal and worse values, [n] each; NaN on either side does not count.

    Values within 1e-9 of each other are equal.
    """
    differences = values - rivals
    differences = differences[~np.isnan(differences)]
    return Changes(
        improved=int((differences > _EQUAL).sum()),
        stayed=int((np.abs(differences) <= _EQUAL).sum()),
        worsened=int((differences < -_EQUAL).sum()),
    )


def _flagged(supports: Sequence[str]) -> dict[str, float]:
    if not supports:
        return {}
    kinds = [{f.kind for s in read_support(text) for f in s.flags} for text in supports]
    shares = {kind: sum(kind in own for own in kinds) / len(kinds) for kind in KINDS}
    return {"any": sum(map(bool, kinds)) / len(kinds)} | shares
