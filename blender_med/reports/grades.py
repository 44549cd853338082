"""The tables of a comparison of rankers on human grades."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from blender_med.reports.columns import Cells
from blender_med.reports.tables import write_csv
from blender_med.stages.grades.study import GradeReport, GradeRow, QuestionRow

if TYPE_CHECKING:
    from rich.table import Table


def write_grades(folder: Path, report: GradeReport) -> list[Path]:
    """Write ``grades.csv`` (a row per block, ranker and metric) and ``questions.csv``.

    Returns:
        The files written.
    """
    files = [folder / "grades.csv", folder / "questions.csv"]
    write_csv(files[0], lambda: ((_grade_cells(row),) for row in report.rows))
    write_csv(files[1], lambda: ((_question_cells(row),) for row in report.questions))
    return files


def _grade_cells(row: GradeRow) -> Cells:
    cells = asdict(row)
    estimate = cells.pop("estimate")
    return cells | {"learned": int(row.learned)} | estimate


def _question_cells(row: QuestionRow) -> Cells:
    cells = asdict(row)
    figures = cells.pop("figures")
    return cells | figures


def grade_table(report: GradeReport) -> Table:
    """The short table that is printed: a row per block and ranker, the metrics side by side."""
    from rich.table import Table

    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    table = Table("answers", "question", "ranker", "n", *metrics)
    figures: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for row in report.rows:
        name = f"{row.ranker} (learned)" if row.learned else row.ranker
        key = (row.answers, row.asked, name, str(row.n))
        estimate = row.estimate
        text = f"{estimate.value:.3f} ({estimate.low:.3f} - {estimate.high:.3f})"
        figures.setdefault(key, {})[row.metric] = text
    for key, own in figures.items():
        table.add_row(*key, *(own.get(metric, "") for metric in metrics))
    return table
