"""Two runs on the questions that both answered: paired differences of every method and metric."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blender_med.errors import DataError
from blender_med.metrics.statistics import holm, mcnemar
from blender_med.records import Question
from blender_med.stages.comparison.compare import Comparison, is_directed
from blender_med.stages.comparison.estimates import (
    Estimates,
    Resampling,
    is_upper_bound,
    macro_estimates,
    mean_estimates,
    question_groups,
)
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import Block, Estimate
from blender_med.stages.methods.board import Board, Floats, Ints

_FIRST, _SECOND = "first", "second"
# What must be equal for two runs to have asked the same question.
_FIELDS = ("question", "context", "options", "answer_index", "reference")


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """One method and metric in two runs, on the questions that it answered in both.

    Attributes:
        n: Questions with an answer in both runs.
        first: Mean in the first run.
        second: Mean in the second run; ``delta`` is the second less the first.
        first_tokens: Mean tokens of an answer in the first run; the next three alike.
    """

    block: Block
    method: str
    metric: str
    n: int
    first: float
    second: Estimate
    first_tokens: float
    second_tokens: float
    first_seconds: float
    second_seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether the values are the same on every question."""
        return self.second.delta_low == self.second.delta_high == 0


@dataclass(frozen=True, slots=True)
class Pair:
    """Places of the common questions of two runs on one block, [n] each."""

    block: Block
    first: Ints
    second: Ints


def difference_rows(
    first: Comparison,
    second: Comparison,
    resampling: Resampling,
    left_out: Collection[str] = (),
) -> Iterator[DifferenceRow]:
    """Rows by block, metric and method: second less first, over the questions of both.

    A question is common where both runs have it in the same split; methods are matched by name.
    Accuracy is tested by McNemar's exact test, all else by the paired bootstrap; Holm's correction
    runs over the methods of a block and metric, without upper bounds and methods whose values are
    equal throughout.

    Args:
        first: The run to compare with.
        second: The run that is judged.
        resampling: Of intervals and tests.
        left_out: Metrics that the runs do not measure alike.

    Raises:
        DataError: A common question differs in its text, context, options or reference, or there
            is no common question.
    """
    found = False
    for own, other in _matched(first, second):
        for pair in _pairs(own[0].board, other[0].board):
            found = True
            yield from _block_rows(pair, own, other, resampling, left_out)
    if not found:
        fix = "compare runs of the same data set, prepared with the same splits and seed"
        raise DataError("the two runs have no question in common in the same split", fix=fix)


def _matched(
    first: Comparison, second: Comparison
) -> Iterator[tuple[list[Outcome], list[Outcome]]]:
    """Outcomes of the boards that both runs have."""
    others = {_key(outcomes[0].board): outcomes for outcomes in second.outcomes}
    for outcomes in first.outcomes:
        other = others.get(_key(outcomes[0].board))
        if other is not None:
            yield outcomes, other


def _key(board: Board) -> tuple[str, str, str]:
    return board.dataset, board.task, board.protocol


def _pairs(first: Board, second: Board) -> Iterator[Pair]:
    places = {question.id: index for index, question in enumerate(second.questions)}
    common: dict[str, list[tuple[int, int]]] = {}
    for index, question in enumerate(first.questions):
        other = places.get(question.id)
        if other is not None and second.questions[other].split == question.split:
            _check_equal(question, second.questions[other])
            common.setdefault(question.split, []).append((index, other))
    for split, found in common.items():
        block = Block(first.dataset, split, first.task, first.protocol)
        places_of_both = np.array(found, dtype=np.int64)
        yield Pair(block, places_of_both[:, 0], places_of_both[:, 1])


def _check_equal(question: Question, other: Question) -> None:
    for name in _FIELDS:
        if getattr(question, name) != getattr(other, name):
            problem = f"question {question.id} has another '{name}' in the second run"
            fix = "compare runs that were prepared from the same version of the data"
            raise DataError(problem, value=getattr(other, name), fix=fix)


def _block_rows(
    pair: Pair,
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    resampling: Resampling,
    left_out: Collection[str],
) -> Iterator[DifferenceRow]:
    others = {outcome.method: outcome for outcome in second}
    both = [(own, others[own.method]) for own in first if own.method in others]
    rows: dict[str, list[DifferenceRow]] = {}
    for own, other in both:
        for metric, estimates in _estimates(own, other, pair, resampling).items():
            if metric not in left_out and len(estimates) == 2:
                row = _row(pair, own, other, metric, estimates)
                rows.setdefault(metric, []).append(row)
    for family in rows.values():
        yield from _with_holm(family)


def _estimates(
    own: Outcome, other: Outcome, pair: Pair, resampling: Resampling
) -> dict[str, Estimates]:
    """Estimates of both runs by metric, over the questions that the method answered in both."""
    groups = question_groups(own.board, pair.first)
    if pair.block.task == "long":
        metrics = [metric for metric in own.board.scores if metric in other.board.scores]
        values = {m: _both(own.values(m), other.values(m), pair) for m in metrics}
        return {
            metric: _tested(metric, mean_estimates(found, resampling, groups, base=_FIRST))
            for metric, found in values.items()
        }
    right = _both(own.correct(), other.correct(), pair)
    gold = np.where(
        np.isnan(right[_FIRST]), -1, own.board.label_numbers(own.board.gold)[pair.first]
    )
    predicted = {
        _FIRST: own.board.label_numbers(own.choice)[pair.first],
        _SECOND: other.board.label_numbers(other.choice)[pair.second],
    }
    answered = {name: ~np.isnan(values) for name, values in right.items()}
    macro = macro_estimates(
        gold, predicted, answered, len(own.board.labels), resampling, groups, base=_FIRST
    )
    return {"accuracy": mean_estimates(right, resampling, groups, mcnemar, base=_FIRST), **macro}


def _both(first: Floats, second: Floats, pair: Pair) -> dict[str, Floats]:
    own, other = first[pair.first], second[pair.second]
    missing = np.isnan(own + other)
    return {_FIRST: np.where(missing, np.nan, own), _SECOND: np.where(missing, np.nan, other)}


def _tested(metric: str, estimates: Estimates) -> Estimates:
    if is_directed(metric):
        return estimates
    return {name: replace(estimate, p=None) for name, estimate in estimates.items()}


def _row(
    pair: Pair, own: Outcome, other: Outcome, metric: str, estimates: Mapping[str, Estimate]
) -> DifferenceRow:
    answered = own.answered[pair.first] & other.answered[pair.second]
    return DifferenceRow(
        block=pair.block,
        method=own.method,
        metric=metric,
        n=int(answered.sum()),
        first=estimates[_FIRST].value,
        second=estimates[_SECOND],
        first_tokens=float(own.tokens[pair.first][answered].mean()),
        second_tokens=float(other.tokens[pair.second][answered].mean()),
        first_seconds=float(own.seconds[pair.first][answered].mean()),
        second_seconds=float(other.seconds[pair.second][answered].mean()),
    )


def _with_holm(rows: Sequence[DifferenceRow]) -> Iterator[DifferenceRow]:
    def in_family(row: DifferenceRow) -> bool:
        return row.second.p is not None and not row.is_equal and not is_upper_bound(row.method)

    family = [row.second.p or 0.0 for row in rows if in_family(row)]
    adjusted = iter(holm(family))
    for row in rows:
        p = next(adjusted) if in_family(row) else None
        yield replace(row, second=replace(row.second, p_holm=p))
