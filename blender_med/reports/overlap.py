"""The table of overlaps between two data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from blender_med.data.contamination import OverlapReport
from blender_med.reports.tables import write_csv


def write_overlap(path: Path, report: OverlapReport) -> None:
    """Write one row per overlap: both ids, kind, containment, number of matches."""
    write_csv(path, lambda: ((asdict(row),) for row in report.rows))
