"""The short tables printed at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from blender_med.stages.comparison import MethodRow

if TYPE_CHECKING:
    from rich.table import Table

_COUNTED_SPLIT = "test"


def summary_tables(rows: Sequence[MethodRow]) -> Iterator[Table]:
    """One table for each data set, task and protocol: its test split, else its last split.

    Shows the primary metric with its interval, the delta to the best single expert with the
    Holm-adjusted p, tokens and seconds. Oracles of other metrics are left to ``methods.csv``. No
    row gives no table.
    """
    blocks = groupby(rows, key=lambda r: (r.block.dataset, r.block.task, r.block.protocol))
    for _, group in blocks:
        yield _table(_counted(list(group)))


def _counted(rows: Sequence[MethodRow]) -> list[MethodRow]:
    splits = {row.block.split for row in rows}
    split = _COUNTED_SPLIT if _COUNTED_SPLIT in splits else rows[-1].block.split
    return [
        r for r in rows if r.block.split == split and (not r.upper_bound or r.method == "oracle")
    ]


def _table(rows: Sequence[MethodRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    block, primary = rows[0].block, rows[0].primary
    title = f"{block.dataset}, {block.task}, {block.protocol}: {block.split}"
    table = Table(title=Text(title), title_justify="left", caption=_caption(rows))
    table.add_column("method", overflow="fold")
    for name in ("n", primary, "95 % interval", "delta", "p (Holm)", "tokens", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.method, str(row.n), *_figures(row), f"{row.tokens:,}", f"{row.seconds:.1f}"]
        table.add_row(*map(Text, cells), style="dim" if row.upper_bound else None)
    return table


def _figures(row: MethodRow) -> list[str]:
    estimate = row.metrics.get(row.primary)
    if estimate is None:
        return ["", "", "", ""]
    digits = 1 if estimate.high > 1 else 3
    delta = "" if estimate.delta is None else f"{estimate.delta:+.{digits}f}"
    p = "" if estimate.p_holm is None else _p_value(estimate.p_holm)
    interval = f"{estimate.low:.{digits}f} - {estimate.high:.{digits}f}"
    return [f"{estimate.value:.{digits}f}", interval, delta, p]


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _caption(rows: Sequence[MethodRow]) -> str | None:
    notes = [f"{row.method}: {row.note}" for row in rows if row.note]
    return "; ".join(notes) or None
