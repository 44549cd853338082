"""``blender-med export``: the tables of a finished run in other forms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    format_: Annotated[
        Literal["parquet", "latex", "card"],
        typer.Option("--format", help="All tables as Parquet, the results in LaTeX, or a card."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default RUN/export.")
    ] = None,
) -> None:
    """Write the tables of a finished run as Parquet, a LaTeX table, or a model card."""
    from blender_med.reports.export import export_run
    from blender_med.stages.runner import open_run

    for file in export_run(open_run(run_folder), format_, output or run_folder / "export"):
        typer.echo(file)
