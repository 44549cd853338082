r"""The CSV tables of a report, safe to open in a spreadsheet.

UTF-8, comma, CRLF. A text cell that a spreadsheet would run as a formula gets a leading
apostrophe; numbers stay numbers. What no CSV reader takes (NUL, lone surrogates) is written as
its escape, such as ``\x00``. Columns that are empty in a whole file are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from blender_med.reports.columns import (
    BLOCK_COLUMNS,
    Cell,
    Sections,
    answer_cells,
    confusion_cells,
    contamination_cells,
    cost_cells,
    fusion_cells,
    gating_cells,
    headroom_cells,
    method_cells,
    ranking_cells,
    rival_cells,
    slice_cells,
)
from blender_med.stages.comparison import (
    Comparison,
    FusionRow,
    GatingRow,
    HeadroomRow,
    RankingRow,
    RivalRow,
)
from blender_med.store.files import atomic_path, remove_files, spreadsheet_text

# Left over from an earlier report where this one has no such rows.
_OPTIONAL_TABLES = {
    "confusion.csv",
    "contamination.csv",
    "fusion.csv",
    "gating.csv",
    "headroom.csv",
    "ranking.csv",
    "rivals.csv",
}

_WITHOUT_BLOCK = {"contamination.csv"}


def write_tables(
    folder: Path,
    comparison: Comparison,
    rankings: Sequence[RankingRow] = (),
    fusions: Sequence[FusionRow] = (),
    headroom: Sequence[HeadroomRow] = (),
    gating: Sequence[GatingRow] = (),
    rivals: Sequence[RivalRow] = (),
) -> list[Path]:
    """Write methods, answers, slices, cost and further tables; each file is atomic.

    ``confusion.csv`` is there where multiple-choice questions are, ``ranking.csv`` where
    rankers are, ``fusion.csv`` where fusers are, ``gating.csv`` where embedding fusers are,
    ``rivals.csv`` where the recipe names rivals, ``headroom.csv`` where a best single expert was
    chosen, ``contamination.csv`` where splits overlap. Texts are streamed.

    Returns:
        The files written.

    Raises:
        StoreError: The folder is not writable.
    """
    tables: dict[str, Callable[[], Iterator[Sections]]] = {
        "methods.csv": lambda: map(method_cells, comparison.methods),
        "answers.csv": lambda: map(answer_cells, comparison.answers()),
        "slices.csv": lambda: map(slice_cells, comparison.slices),
        "cost.csv": lambda: map(cost_cells, comparison.costs),
    }
    if comparison.confusions:
        tables["confusion.csv"] = lambda: map(confusion_cells, comparison.confusions)
    if overlaps := comparison.contamination.rows():
        tables["contamination.csv"] = lambda: map(contamination_cells, overlaps)
    if rankings:
        tables["ranking.csv"] = lambda: map(ranking_cells, rankings)
    if fusions:
        tables["fusion.csv"] = lambda: map(fusion_cells, fusions)
    if gating:
        tables["gating.csv"] = lambda: map(gating_cells, gating)
    if rivals:
        tables["rivals.csv"] = lambda: map(rival_cells, rivals)
    if headroom:
        tables["headroom.csv"] = lambda: map(headroom_cells, headroom)
    remove_files(folder / name for name in _OPTIONAL_TABLES - set(tables))
    for name, rows in tables.items():
        write_csv(folder / name, rows, always=() if name in _WITHOUT_BLOCK else BLOCK_COLUMNS)
    return [folder / name for name in tables]


def write_csv(
    path: Path, rows: Callable[[], Iterable[Sections]], *, always: Sequence[str] = ()
) -> None:
    """Write rows as CSV, atomically, without holding them.

    Args:
        path: The file.
        rows: Gives the rows anew on each call: the first pass finds the columns, the second
            writes. A row is made of sections; the columns of a section stand together, in order
            of first appearance.
        always: Columns that stand first also where they are empty.
    """
    header = _columns(rows(), always)
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([spreadsheet_cell(name) for name in header])
        for sections in rows():
            cells = {name: cell for section in sections for name, cell in section.items()}
            writer.writerow([spreadsheet_cell(cells.get(name)) for name in header])


def _columns(rows: Iterable[Sections], always: Sequence[str]) -> list[str]:
    filled = set(always)
    found: list[dict[str, None]] = [dict.fromkeys(always)]
    for sections in rows:
        found += [{} for _ in range(len(sections) - len(found))]
        for names, section in zip(found, sections, strict=False):
            names |= dict.fromkeys(section)
            filled.update(name for name, cell in section.items() if cell is not None and cell != "")
    return [name for names in found for name in names if name in filled]


def spreadsheet_cell(cell: Cell) -> str:
    """Text of a cell: None and NaN are empty, numbers plain, formulas neutralised."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float):
        return f"{cell:.9g}"
    return str(cell) if isinstance(cell, int) else spreadsheet_text(cell)
