"""``blender-med compare``: two runs on their common questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blender_med.cli.run import Quiet


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run to compare with.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run that is judged.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: in RUN_B).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the paired differences of two runs on their common questions."""
    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.reports.difference import difference_tables, write_difference
    from blender_med.stages.run_pair import compare_runs
    from blender_med.stages.runner import open_run

    set_up_logging(quiet=quiet, verbose=False)
    runs = open_run(first), open_run(second)
    difference = compare_runs(*runs)
    names = runs[0].recipe.name, runs[1].recipe.name
    shown = names if names[0] != names[1] else (str(first), str(second))
    files = write_difference(output or second / "compare" / names[0], shown, difference)
    if quiet:
        return
    for table in difference_tables(difference):
        stdout.print(table)
    for metric in difference.left_out:
        stdout.print(f"- left out: {metric}, measured by other models")
    stdout.print(f"Written: {', '.join(map(str, files))}", soft_wrap=True)
