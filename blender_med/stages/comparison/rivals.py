"""Methods against rivals of one's choice, on each data set and pooled over all of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blender_med.metrics.statistics import holm, mcnemar
from blender_med.records import Protocol, Task
from blender_med.stages.comparison.compare import Comparison
from blender_med.stages.comparison.estimates import (
    Resampling,
    is_upper_bound,
    mean_estimates,
    question_groups,
)
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block, Estimate
from blender_med.stages.methods.board import Floats

POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class RivalRow:
    """A method against a rival on the questions that both answered.

    Attributes:
        block: Its data set is ``pooled`` where the questions of all data sets are taken together.
        n: Questions that both answered.
        estimate: Accuracy of the method; its delta, tests and Holm family are against the rival.
        rival_value: Accuracy of the rival.
        wins: Questions that the method alone answers right.
        losses: Questions that the rival alone answers right.
    """

    block: Block
    method: str
    rival: str
    n: int
    estimate: Estimate
    rival_value: float
    wins: int
    losses: int


@dataclass(frozen=True, slots=True)
class _Pool:
    """Right answers of every method on the questions of a block, [n] each; NaN is missing."""

    block: Block
    right: Mapping[str, Floats]
    groups: list[Hashable] | None


def rival_rows(
    comparison: Comparison, rivals: Collection[str], resampling: Resampling
) -> Iterator[RivalRow]:
    """Rows by block, rival and method, for multiple-choice questions of dev and test.

    Accuracies are tested by McNemar's exact test. Holm's correction runs over the methods against
    one rival on one block, without upper bounds. A rival that a block does not have is passed
    over.
    """
    for pool in _pools(comparison):
        for rival in rivals:
            if rival in pool.right:
                yield from _against(pool, rival, resampling)


def _pools(comparison: Comparison) -> Iterator[_Pool]:
    """The blocks of every data set, then those of all together; methods learn from train."""
    together: dict[tuple[str, Task, Protocol], list[_Pool]] = {}
    for outcomes in comparison.outcomes:
        board = outcomes[0].board
        for block in comparison.blocks(board) if board.task == "mcq" else ():
            if block.split == "train":
                continue
            pool = _pool(block, outcomes)
            yield pool
            key = block.split, block.task, block.protocol
            together.setdefault(key, []).append(pool)
    for (split, task, protocol), pools in together.items():
        if len(pools) > 1:
            yield _joined(Block(POOLED, split, task, protocol), pools)


def _pool(block: Block, outcomes: Sequence[Outcome]) -> _Pool:
    board = outcomes[0].board
    indices = board.split_indices(block.split)
    right = {outcome.method: outcome.correct()[indices] for outcome in outcomes}
    return _Pool(block, right, question_groups(board, indices))


def _joined(block: Block, pools: Sequence[_Pool]) -> _Pool:
    """Questions one data set after another; a method that one lacks has no answers there."""
    sizes = [len(next(iter(pool.right.values()))) for pool in pools]
    names = dict.fromkeys(name for pool in pools for name in pool.right)
    right = {
        name: np.concatenate(
            [p.right.get(name, np.full(n, np.nan)) for p, n in zip(pools, sizes, strict=True)]
        )
        for name in names
    }
    groups: list[Hashable] = [
        (number, group)
        for number, (pool, size) in enumerate(zip(pools, sizes, strict=True))
        for group in pool.groups or range(size)
    ]
    return _Pool(block, right, groups)


def _against(pool: _Pool, rival: str, resampling: Resampling) -> Iterator[RivalRow]:
    own = pool.right[rival]
    estimates = mean_estimates(pool.right, resampling, pool.groups, mcnemar, base=rival)
    family = [name for name, e in estimates.items() if e.p is not None and not is_upper_bound(name)]
    adjusted = dict(zip(family, holm([estimates[n].p or 0.0 for n in family]), strict=True))
    for name, estimate in estimates.items():
        if estimate.delta is None:
            continue
        both = ~np.isnan(pool.right[name] + own)
        mine, other = pool.right[name][both], own[both]
        yield RivalRow(
            block=pool.block,
            method=name,
            rival=rival,
            n=int(both.sum()),
            estimate=replace(estimate, p_holm=adjusted.get(name)),
            rival_value=float(other.mean()),
            wins=int((mine > other).sum()),
            losses=int((mine < other).sum()),
        )
