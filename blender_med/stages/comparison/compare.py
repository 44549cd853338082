"""Compare methods on the same questions: values, intervals, tests, slices, cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.metrics.calibration import aurc, ece
from blender_med.metrics.choice import ChoiceReport, choice_report
from blender_med.records import Answer
from blender_med.stages.comparison.browse import answer_rows
from blender_med.stages.comparison.clean import Contamination
from blender_med.stages.comparison.estimates import (
    Estimates,
    Resampling,
    choice_estimates,
    clean_estimates,
    is_upper_bound,
    text_estimates,
)
from blender_med.stages.comparison.outcomes import Outcome, collect_outcomes
from blender_med.stages.comparison.rows import (
    AnswerRow,
    Block,
    Certainty,
    ConfusionRow,
    CostRow,
    MethodRow,
    SliceRow,
)
from blender_med.stages.comparison.slices import slice_rows
from blender_med.stages.methods import BEST_SINGLE, MethodSettings
from blender_med.stages.methods.board import Board, Ints

_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Comparison:
    """Everything that the reports show; ``answers`` is made anew, one row at a time."""

    methods: list[MethodRow]
    slices: list[SliceRow]
    costs: list[CostRow]
    confusions: list[ConfusionRow]
    outcomes: list[list[Outcome]]
    settings: MethodSettings
    contamination: Contamination

    def answers(self) -> Iterator[AnswerRow]:
        """One row per question and protocol, board by board."""
        for outcomes in self.outcomes:
            yield from answer_rows(outcomes, self.settings)

    def blocks(self, board: Board) -> Iterator[Block]:
        """The blocks of a board, one per split."""
        for split in _splits(board):
            yield Block(board.dataset, split, board.task, board.protocol)


def compare(
    boards: Sequence[Board],
    answers: Iterable[Answer],
    settings: MethodSettings,
    *,
    resamples: int = 2000,
    alpha: float = 0.05,
) -> Comparison:
    """Compare the methods on every split of every board; ``test`` is the split that counts.

    Questions that share ``meta['group']`` are resampled together. Methods are tested against
    ``best_single``, which was chosen on dev: accuracy by McNemar's exact test, all else by the
    paired bootstrap. Without its answers there are no deltas and no tests.

    Args:
        boards: From ``build_boards``.
        answers: Of all boards, as a stream; only figures and new texts are kept.
        settings: Those that the answers were made with.
        resamples: Bootstrap resamples.
        alpha: 1 - coverage of the intervals.

    Raises:
        DataError: An answer does not fit the boards, or the primary metric was not scored.
    """
    collected = [outcomes for outcomes in collect_outcomes(boards, answers) if outcomes]
    result = Comparison([], [], [], [], collected, settings, Contamination())
    resampling = Resampling(resamples, settings.seed, alpha)
    for outcomes in collected:
        board = outcomes[0].board
        board.metric(settings.primary(board.task))
        for block in result.blocks(board):
            _compare_block(block, outcomes, board.split_indices(block.split), resampling, result)
    return result


def _splits(board: Board) -> list[str]:
    present = {question.split for question in board.questions}
    return [*(s for s in _SPLITS if s in present), *sorted(present - set(_SPLITS))]


def _compare_block(
    block: Block,
    outcomes: Sequence[Outcome],
    indices: Ints,
    resampling: Resampling,
    result: Comparison,
) -> None:
    present = [outcome for outcome in outcomes if outcome.answered[indices].any()]
    primary = "accuracy" if block.task == "mcq" else result.settings.primary_long
    if block.task == "mcq":
        estimates = choice_estimates(present[0].board, present, indices, resampling)
    else:
        board = present[0].board
        estimates = text_estimates(board, present, indices, resampling, is_directed)
    clean = result.contamination.clean(present[0].board, block.split)
    if clean is not None:
        estimates[f"{primary}_clean"] = clean_estimates(present, clean, primary, resampling)
    for outcome in present:
        report = _choice_report(outcome, indices)
        row = _method_row(block, outcome, indices, primary, estimates, report)
        row = replace(
            row,
            clean_n=None if clean is None else _known(outcome, primary, clean),
            certainty=choice_certainty(outcome, indices),
        )
        result.methods.append(row)
        result.costs.append(_cost_row(row, outcome, indices))
        result.confusions.extend(_confusion_rows(block, outcome, report))
    result.slices.extend(slice_rows(block, present, indices, primary, resampling))


def is_directed(metric: str) -> bool:
    """Whether a higher value of the metric is better; others are not tested."""
    return metric not in METRICS or METRIC_SPECS[metric].directed


def _choice_report(outcome: Outcome, indices: Ints) -> ChoiceReport | None:
    board = outcome.board
    gold = board.label_numbers(board.gold)
    known = indices[outcome.answered[indices] & (gold[indices] >= 0)]
    if board.task != "mcq" or known.size == 0:
        return None
    return choice_report(gold[known], board.label_numbers(outcome.choice)[known], len(board.labels))


def _method_row(
    block: Block,
    outcome: Outcome,
    indices: Ints,
    primary: str,
    estimates: dict[str, Estimates],
    report: ChoiceReport | None,
) -> MethodRow:
    labels = outcome.board.labels
    answered = indices[outcome.answered[indices]]
    return MethodRow(
        block=block,
        method=outcome.method,
        n=_known(outcome, primary, indices),
        primary=primary,
        metrics={name: e[outcome.method] for name, e in estimates.items() if outcome.method in e},
        labels={labels[number]: scores for number, scores in report.labels.items()}
        if report
        else {},
        experts_run=float(outcome.experts_run[answered].mean()),
        tokens=int(outcome.tokens[answered].sum()),
        seconds=float(outcome.seconds[answered].sum()),
        upper_bound=is_upper_bound(outcome.method),
        note=_note(outcome),
    )


def choice_certainty(outcome: Outcome, indices: Ints) -> Certainty | None:
    """What the confidence of a method's choices is worth on some questions.

    Returns:
        None for long answers, and where no question with a known answer has a confidence.
    """
    right, sure = outcome.correct()[indices], outcome.confidence[indices]
    known = ~np.isnan(right + sure)
    if outcome.board.task != "mcq" or not known.any():
        return None
    losses = 1 - right[known]
    return Certainty(
        n=int(known.sum()),
        risk=float(losses.mean()),
        aurc=aurc(sure[known], losses),
        ece=ece(sure[known], right[known]),
    )


def _known(outcome: Outcome, primary: str, indices: Ints) -> int:
    return int((~np.isnan(outcome.primary(primary)[indices])).sum())


def _note(outcome: Outcome) -> str:
    if outcome.method == BEST_SINGLE:
        return f"chosen on dev: {', '.join(outcome.experts)}"
    if is_upper_bound(outcome.method):
        return "upper bound: picked with the reference answers"
    if outcome.method == "constant":
        board = outcome.board
        numbers = board.label_numbers(outcome.choice)
        return f"always {board.labels[int(numbers.max())]}"
    return ""


def _cost_row(row: MethodRow, outcome: Outcome, indices: Ints) -> CostRow:
    return CostRow(
        block=row.block,
        method=row.method,
        experts=tuple(outcome.experts),
        questions=int(outcome.answered[indices].sum()),
        tokens=row.tokens,
        seconds=row.seconds,
        comparisons=int(outcome.comparisons[indices].sum()),
        saved_tokens=int(outcome.saved_tokens[indices].sum()),
        saved_seconds=float(outcome.saved_seconds[indices].sum()),
    )


def _confusion_rows(
    block: Block, outcome: Outcome, report: ChoiceReport | None
) -> Iterator[ConfusionRow]:
    if report is None:
        return
    labels = outcome.board.labels
    for gold, counts in zip(labels, report.confusion.tolist(), strict=True):
        for predicted, count in zip((*labels, ""), counts, strict=True):
            yield ConfusionRow(block, outcome.method, gold, predicted, count)
