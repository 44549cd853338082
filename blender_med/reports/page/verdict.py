"""The verdict: did the ensemble beat the best single expert, by how much, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from blender_med.reports.page.kinds import Kinds
from blender_med.reports.page.numbers import count, duration, figure, interval, p_value, signed
from blender_med.stages.comparison import Block, Comparison, CostRow, Estimate, MethodRow
from blender_med.stages.methods import BEST_SINGLE

Tone = Literal["better", "worse", "open", "none"]
COUNTED_SPLIT = "test"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Verdict:
    """What the page says first about a block.

    Attributes:
        ensemble: Name of the ensemble method it is about, "" where there is none.
        headline: One sentence.
        reason: How the method was chosen and tested.
        facts: Labelled figures.
    """

    block: Block
    tone: Tone
    ensemble: str
    headline: str
    reason: str
    facts: tuple[tuple[str, str], ...]


def verdicts(comparison: Comparison) -> list[Verdict]:
    """One per data set, task and protocol: on its test split, else on its last one."""
    found, kinds = [], Kinds(comparison.settings)
    by_family = groupby(comparison.methods, key=lambda r: _family(r.block))
    for _, rows in by_family:
        family = list(rows)
        splits = list(dict.fromkeys(row.block.split for row in family))
        split = COUNTED_SPLIT if COUNTED_SPLIT in splits else splits[-1]
        own = [row for row in family if row.block.split == split]
        dev = [row for row in family if row.block.split == "dev" and split != "dev"]
        costs = [c for c in comparison.costs if c.block == own[0].block]
        found.append(_verdict(own, dev, costs, kinds))
    return found


def _family(block: Block) -> tuple[str, str, str]:
    return block.dataset, block.task, block.protocol


def _verdict(
    rows: Sequence[MethodRow],
    dev: Sequence[MethodRow],
    costs: Sequence[CostRow],
    kinds: Kinds,
) -> Verdict:
    block = rows[0].block
    row = _candidate(rows, dev, kinds)
    best = next((r for r in rows if r.method == BEST_SINGLE and r.primary in r.metrics), None)
    if row is None or best is None:
        headline = "There is no ensemble method to judge."
        if best is None:
            headline = "No best single expert could be chosen: there are no dev questions."
        return Verdict(block, "none", row.method if row else "", headline, "", ())
    estimate = row.metrics[row.primary]
    tone, headline = _headline(row, best, estimate)
    chosen = "the best ensemble method on dev" if dev else "the first ensemble method (no dev)"
    reason = f"{row.method} is {chosen}; {best.method} was {best.note}. {_test(row, estimate)}"
    return Verdict(block, tone, row.method, headline, reason, _facts(row, best, estimate, costs))


def _candidate(
    rows: Sequence[MethodRow], dev: Sequence[MethodRow], kinds: Kinds
) -> MethodRow | None:
    """The ensemble method with the best primary metric on dev, never on the split shown."""
    named = {
        row.method: row
        for row in rows
        if kinds(row.method) == "ensemble" and row.primary in row.metrics
    }
    values = {
        row.method: row.metrics[row.primary].value
        for row in dev
        if row.method in named and row.primary in row.metrics
    }
    method = max(values, key=lambda m: values[m]) if values else next(iter(named), None)
    return named[method] if method is not None else None


def _headline(row: MethodRow, best: MethodRow, estimate: Estimate) -> tuple[Tone, str]:
    expert = best.note.rpartition(": ")[2] or best.method
    delta = estimate.delta
    if delta is None:
        return "none", f"{row.method} and {expert} answered no question in common."
    figures = f"{signed(delta)} {row.primary}"
    span = interval(estimate.delta_low, estimate.delta_high, sign=True)
    if estimate.p_holm is None:
        return (
            "open",
            f"{row.method} gives exactly the answers of the best single expert, {expert}.",
        )
    if estimate.p_holm >= SIGNIFICANT:
        return "open", (
            f"Not shown: the ensemble {row.method} differs from the best single expert, {expert}, "
            f"by {figures} ({span}), which chance can explain."
        )
    better = delta > 0
    verb = "Yes: the ensemble {} beat" if better else "No: the ensemble {} is worse than"
    text = f"{verb.format(row.method)} the best single expert, {expert}, by {figures} ({span})."
    return ("better" if better else "worse"), text


def _test(row: MethodRow, estimate: Estimate) -> str:
    test = "McNemar's exact test" if row.block.task == "mcq" else "Paired bootstrap"
    if estimate.p is None or estimate.p_holm is None:
        return ""
    return (
        f"{test} on {row.n} questions: p {p_value(estimate.p)}, "
        f"{p_value(estimate.p_holm)} after Holm's correction for all methods."
    )


def _facts(
    row: MethodRow, best: MethodRow, estimate: Estimate, costs: Sequence[CostRow]
) -> tuple[tuple[str, str], ...]:
    by_method = {cost.method: cost for cost in costs}
    own, other = by_method[row.method], by_method[BEST_SINGLE]
    tokens = _ratio(own.tokens_per_question, other.tokens_per_question)
    seconds = _ratio(own.seconds_per_question, other.seconds_per_question)
    return (
        (f"{row.primary}, ensemble", figure(estimate.value)),
        (f"{row.primary}, best expert", figure(best.metrics[best.primary].value)),
        ("difference", signed(estimate.delta)),
        ("tokens a question", f"{count(own.tokens_per_question)}{tokens}"),
        ("seconds a question", f"{duration(own.seconds_per_question)}{seconds}"),
        ("questions", str(row.n)),
        *_clean(row),
    )


def _clean(row: MethodRow) -> tuple[tuple[str, str], ...]:
    """The difference on the questions that no earlier split gives away, where some are."""
    estimate = row.metrics.get(f"{row.primary}_clean")
    if estimate is None or row.clean_n == row.n:
        return ()
    return ((f"difference on {row.clean_n} clean questions", signed(estimate.delta)),)


def _ratio(own: float, other: float) -> str:
    return f" ({own / other:.1f}\N{MULTIPLICATION SIGN})" if other else ""
