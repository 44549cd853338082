"""``blender-med rank-graded``: rankers against human grades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blender_med.cli.run import Overrides, Quiet


def rank_graded(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe (YAML), such as rankers/liveqa-grades.yaml.")
    ],
    set_: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Compare rankers on answers that people graded; learned ones are tested by question."""
    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.reports.grades import grade_table, write_grades
    from blender_med.stages.grades.config import load_graded_recipe
    from blender_med.stages.grades.study import grade_rankers

    set_up_logging(quiet=quiet, verbose=False)
    opened = load_graded_recipe(recipe, set_ or [])
    report = grade_rankers(opened)
    files = write_grades(opened.folder, report)
    if quiet:
        return
    stdout.print(grade_table(report))
    for reason, count in report.dropped.items():
        stdout.print(f"- left out: {count} {reason}", highlight=False, markup=False)
    stdout.print(f"Tables: {', '.join(map(str, files))}", highlight=False, markup=False)
