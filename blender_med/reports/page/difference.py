"""The page of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from blender_med.reports.page.build import block_name
from blender_med.reports.page.charts import forest
from blender_med.reports.page.document import BlockView, Document, write_document
from blender_med.reports.page.kinds import Kinds
from blender_med.reports.page.numbers import count, duration, figure, interval, p_value, signed
from blender_med.reports.page.questions import pack_questions
from blender_med.reports.page.sections import Figure, Table
from blender_med.reports.page.theme import svg
from blender_med.reports.page.verdict import COUNTED_SPLIT, SIGNIFICANT, Tone, Verdict
from blender_med.stages.comparison import Block, DifferenceRow
from blender_med.stages.run_pair import FIRST, RunDifference

_HEAD = (
    "method", "n", "first", "second", "difference", "95 % interval", "p", "p (Holm)",
)  # fmt: skip


def write_difference_page(
    folder: Path, names: tuple[str, str], difference: RunDifference
) -> list[Path]:
    """Write the page; the test split of each block comes first. Returns the files.

    Raises:
        StoreError: The folder is not writable.
    """
    kinds = Kinds(difference.second.settings)
    by_block = [(b, list(rows)) for b, rows in groupby(difference.rows, key=lambda r: r.block)]
    by_block.sort(key=lambda item: item[0].split != COUNTED_SPLIT)
    views = [
        BlockView(
            block_name(block), _verdict(block, rows, names, difference), _figures(rows, kinds)
        )
        for block, rows in by_block
    ]
    facts = [("first run", names[0]), ("second run", names[1])]
    if difference.left_out:
        facts.append(("left out, measured by other models", ", ".join(difference.left_out)))
    document = Document(
        title=f"{names[1]} against {names[0]}",
        lead="Paired differences on the questions of both runs; above 0 the second run is better.",
        facts=tuple(facts),
        blocks=views,
        notes=[],
        questions=pack_questions(
            difference.answers(), {}, [b for b, _ in by_block], _rivals(difference)
        ),
    )
    return write_document(folder, document)


def _rivals(difference: RunDifference) -> dict[str, str]:
    """Every method of the second run against itself in the first."""
    return {row.method: f"{FIRST}{row.method}" for row in difference.rows}


def _verdict(
    block: Block, rows: Sequence[DifferenceRow], names: tuple[str, str], difference: RunDifference
) -> Verdict:
    """How many methods differ in the primary metric after correction, and which way."""
    primary, kinds = difference.primary[block.task], Kinds(difference.second.settings)
    own = [row for row in rows if row.metric == primary and kinds(row.method) != "upper bound"]
    sure = [r for r in own if r.second.p_holm is not None and r.second.p_holm < SIGNIFICANT]
    better = [row for row in sure if (row.second.delta or 0.0) > 0]
    worse = [row for row in sure if row not in better]
    tone: Tone = "open"
    if sure:
        tone = "better" if not worse else "worse" if not better else "open"
    headline = f"No method differs in {primary} beyond chance."
    if sure:
        headline = (
            f"{names[1]} is better by {len(better)} and worse by {len(worse)} "
            f"of {len(own)} methods in {primary}."
        )
    reason = ", ".join(f"{row.method} {signed(row.second.delta)}" for row in sure)
    n = max((row.n for row in own), default=0)
    return Verdict(block, tone, "", headline, reason, (("common questions", str(n)),))


def _figures(rows: Sequence[DifferenceRow], kinds: Kinds) -> list[Figure]:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    found = [
        _difference([r for r in rows if r.metric == metric], metric, kinds) for metric in metrics
    ]
    return [*found, _costs([row for row in rows if row.metric == metrics[0]])]


def _difference(rows: Sequence[DifferenceRow], metric: str, kinds: Kinds) -> Figure:
    estimates = {row.method: row.second for row in rows}
    chart = forest(estimates, kinds, f"difference in {metric}, 95 % interval")
    cells = tuple(
        (
            row.method, str(row.n), figure(row.first), figure(row.second.value),
            signed(row.second.delta),
            interval(row.second.delta_low, row.second.delta_high, sign=True),
            p_value(row.second.p), p_value(row.second.p_holm),
        )
        for row in rows
    )  # fmt: skip
    drawn = None if chart is None else svg(chart, metric)
    text = "Second run less first run, on the questions that the method answered in both."
    return Figure(f"difference-{metric}", metric, text, drawn, Table(_HEAD, cells))


def _costs(rows: Sequence[DifferenceRow]) -> Figure:
    head = ("method", "tokens, first", "tokens, second", "seconds, first", "seconds, second")
    cells = tuple(
        (
            row.method, count(row.first_tokens), count(row.second_tokens),
            duration(row.first_seconds), duration(row.second_seconds),
        )
        for row in rows
    )  # fmt: skip
    return Figure("costs", "Cost of an answer", "Means per question.", None, Table(head, cells))
