"""Estimates of all methods on one block: values, intervals, paired tests, Holm."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blender_med.metrics.choice import confusion_columns, macro_scores
from blender_med.metrics.statistics import (
    bootstrap_means,
    bootstrap_p,
    bootstrap_sums,
    holm,
    mcnemar,
    percentile_interval,
)
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Estimate
from blender_med.stages.methods import BEST_SINGLE, ORACLE
from blender_med.stages.methods.board import Board, Floats, Ints

Estimates = dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals and tests are resampled.

    Attributes:
        resamples: Bootstrap resamples.
        seed: Seed of the run.
        alpha: 1 - coverage of the intervals.
    """

    resamples: int = 2000
    seed: int = 0
    alpha: float = 0.05


def question_groups(board: Board, indices: Ints) -> list[Hashable] | None:
    """Group (document or focus) of each question; None where no two questions share one."""
    groups = [
        board.questions[i].meta.get("group") or ("question", board.questions[i].id)
        for i in indices.tolist()
    ]
    return groups if len(set(groups)) < len(groups) else None


def mean_estimates(
    values: Mapping[str, Floats],
    resampling: Resampling,
    groups: Sequence[Hashable] | None,
    test: Callable[[Floats, Floats], float] | None = None,
    base: str = BEST_SINGLE,
) -> Estimates:
    """Estimates of means by method; a method without any value is left out.

    Args:
        values: Values by method, each [n]; NaN is missing.
        resampling: Resamples, seed, coverage.
        groups: Group of each question, [n], or None.
        test: Paired test; None takes the paired bootstrap.
        base: Method that the others are compared with.
    """
    kept = {method: v for method, v in values.items() if not np.isnan(v).all()}
    if not kept:
        return {}
    rival = kept.get(base)
    matrix = np.column_stack(list(kept.values()))
    differences = matrix[:, :0] if rival is None else matrix - rival[:, None]
    means = bootstrap_means(
        np.hstack([matrix, differences]),
        resamples=resampling.resamples,
        seed=resampling.seed,
        groups=groups,
    )
    result: Estimates = {}
    for column, (method, own) in enumerate(kept.items()):
        low, high = percentile_interval(means[:, column], resampling.alpha)
        estimate = Estimate(float(np.nanmean(own)), low, high)
        if rival is not None and method != base and not np.isnan(own - rival).all():
            delta = float(np.nanmean(own - rival))
            units = _units(groups, ~np.isnan(own - rival))
            resampled = means[:, len(kept) + column]
            p = test(own, rival) if test else bootstrap_p(resampled, delta, units)
            estimate = _compared(estimate, delta, resampled, p, resampling)
        result[method] = estimate
    return result


def _compared(
    estimate: Estimate, delta: float, resampled: Floats, p: float, resampling: Resampling
) -> Estimate:
    low, high = percentile_interval(resampled, resampling.alpha)
    return replace(estimate, delta=delta, p=p, delta_low=low, delta_high=high)


def _units(groups: Sequence[Hashable] | None, known: np.ndarray) -> int:
    if groups is None:
        return int(known.sum())
    return len({group for group, is_known in zip(groups, known.tolist(), strict=True) if is_known})


def macro_estimates(
    gold: Ints,
    predicted: Mapping[str, Ints],
    answered: Mapping[str, np.ndarray],
    n_labels: int,
    resampling: Resampling,
    groups: Sequence[Hashable] | None,
    base: str = BEST_SINGLE,
) -> dict[str, Estimates]:
    """Estimates of macro precision, recall and F1 by metric and method.

    The intervals resample questions and recompute each from the confusion counts. A difference is
    given where both methods answered the same questions.

    Args:
        gold: Label numbers, -1 unknown, [n].
        predicted: Label numbers by method, -1 unparsed, each [n].
        answered: Whether there is an answer, by method, each [n].
        n_labels: Number of labels.
        resampling: Resamples, seed, coverage.
        groups: Group of each question, [n], or None.
        base: Method that the others are compared with.
    """
    known = {m: np.where(answered[m], gold, -1) for m in predicted}
    kept = [m for m in predicted if (known[m] >= 0).any()]
    if not kept:
        return {}
    cells = [confusion_columns(known[m], predicted[m], n_labels) for m in kept]
    shape = (-1, len(kept), n_labels, n_labels + 1)
    columns = np.hstack(cells)
    sums = bootstrap_sums(
        columns, resamples=resampling.resamples, seed=resampling.seed, groups=groups
    )
    observed = macro_scores(columns.sum(axis=0).reshape(shape))[0]
    resampled = macro_scores(sums.reshape(shape))
    rival = kept.index(base) if base in kept else None
    result: dict[str, Estimates] = {}
    for k, metric in enumerate(("macro_precision", "macro_recall", "macro_f1")):
        result[metric] = {}
        for m, method in enumerate(kept):
            low, high = percentile_interval(resampled[:, m, k], resampling.alpha)
            estimate = Estimate(float(observed[m, k]), low, high)
            if rival is not None and m != rival and (known[method] == known[base]).all():
                delta = float(observed[m, k] - observed[rival, k])
                units = _units(groups, known[method] >= 0)
                differences = resampled[:, m, k] - resampled[:, rival, k]
                p = bootstrap_p(differences, delta, units)
                estimate = _compared(estimate, delta, differences, p, resampling)
            result[metric][method] = estimate
    return result


def with_holm(estimates: Estimates, outcomes: Sequence[Outcome]) -> Estimates:
    """Add Holm-adjusted p over the methods that are a hypothesis of the family.

    An oracle is an upper bound, and a method with exactly the answers of the best single expert
    is no rival: neither is in the family.
    """
    base = next((o for o in outcomes if o.method == BEST_SINGLE), None)
    family = [
        o.method
        for o in outcomes
        if o.method in estimates
        and estimates[o.method].p is not None
        and not is_upper_bound(o.method)
        and not (base is not None and o.same_answers(base))
    ]
    adjusted = holm([estimates[method].p or 0.0 for method in family])
    return estimates | {
        method: replace(estimates[method], p_holm=p)
        for method, p in zip(family, adjusted, strict=True)
    }


def is_upper_bound(method: str) -> bool:
    """Whether the method looks at the reference answers."""
    return method.partition(":")[0] == ORACLE


def choice_estimates(
    board: Board, outcomes: Sequence[Outcome], indices: Ints, resampling: Resampling
) -> dict[str, Estimates]:
    """Accuracy (tested by McNemar), macro scores and the share of unparsed answers, by method."""
    groups = question_groups(board, indices)
    right = {o.method: o.correct()[indices] for o in outcomes}
    gold = board.label_numbers(board.gold)[indices]
    predicted = {o.method: board.label_numbers(o.choice)[indices] for o in outcomes}
    answered = {o.method: o.answered[indices] for o in outcomes}
    macro = macro_estimates(gold, predicted, answered, len(board.labels), resampling, groups)
    tested = {"accuracy": mean_estimates(right, resampling, groups, mcnemar), **macro}
    unparsed = {o.method: o.unparsed()[indices] for o in outcomes}
    described = {"unparsed": _untested(mean_estimates(unparsed, resampling, groups))}
    return {name: with_holm(e, outcomes) for name, e in tested.items()} | described


def text_estimates(
    board: Board,
    outcomes: Sequence[Outcome],
    indices: Ints,
    resampling: Resampling,
    is_directed: Callable[[str], bool],
) -> dict[str, Estimates]:
    """Means of every scored metric; directed ones tested by the paired bootstrap."""
    groups = question_groups(board, indices)
    result: dict[str, Estimates] = {}
    for metric in board.scores:
        values = {o.method: o.values(metric)[indices] for o in outcomes}
        estimates = mean_estimates(values, resampling, groups)
        tested = is_directed(metric)
        result[metric] = with_holm(estimates, outcomes) if tested else _untested(estimates)
    return result


def clean_estimates(
    outcomes: Sequence[Outcome], indices: Ints, primary: str, resampling: Resampling
) -> Estimates:
    """Means of the primary metric over some questions, tested as over all of them."""
    board = outcomes[0].board
    values = {o.method: o.primary(primary)[indices] for o in outcomes}
    test = mcnemar if board.task == "mcq" else None
    groups = question_groups(board, indices)
    return with_holm(mean_estimates(values, resampling, groups, test), outcomes)


def _untested(estimates: Estimates) -> Estimates:
    return {method: replace(estimate, p=None) for method, estimate in estimates.items()}
