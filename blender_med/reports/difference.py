"""The tables and the page of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from blender_med.reports.columns import difference_cells
from blender_med.reports.tables import write_csv
from blender_med.stages.comparison import DifferenceRow
from blender_med.stages.run_pair import RunDifference

if TYPE_CHECKING:
    from rich.table import Table

TABLE = "differences.csv"


def write_difference(folder: Path, names: tuple[str, str], difference: RunDifference) -> list[Path]:
    """Write ``differences.csv`` and ``index.html``; returns the files.

    Args:
        folder: Where.
        names: Of the first and the second run.
        difference: Second less first.

    Raises:
        StoreError: The folder is not writable.
    """
    from blender_med.reports.page.difference import write_difference_page

    table = folder / TABLE
    write_csv(table, lambda: map(difference_cells, difference.rows))
    return [table, *write_difference_page(folder, names, difference)]


def difference_tables(difference: RunDifference) -> Iterator[Table]:
    """The short tables that are printed: the primary metric of the methods, block by block."""
    shown = (row for row in difference.rows if row.metric == difference.primary[row.block.task])
    for block, rows in groupby(shown, key=lambda row: row.block):
        name = f"{block.dataset}, {block.task}, {block.protocol}: {block.split}"
        yield _table(f"{name}, {difference.primary[block.task]}", rows)


def _table(title: str, rows: Iterable[DifferenceRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from blender_med.reports.page.numbers import figure, interval, p_value, signed

    table = Table(title=Text(title), title_justify="left")
    table.add_column("method", overflow="fold")
    for name in ("n", "first", "second", "difference", "95 % interval", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        estimate = row.second
        cells = (
            row.method, str(row.n), figure(row.first), figure(estimate.value),
            signed(estimate.delta), interval(estimate.delta_low, estimate.delta_high, sign=True),
            p_value(estimate.p_holm),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    return table
