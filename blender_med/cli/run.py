"""``blender-med run``, ``status`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from blender_med.stages.base import Run
    from blender_med.stages.runner import Selection

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. dataset.limit=50."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' own output.")]


def run(
    recipe: Annotated[Path, typer.Argument(help="Pipeline recipe (YAML).")],
    set_: Overrides = None,
    only: Annotated[
        str | None, typer.Option(help="Run these stages only (comma-separated).")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Start at this stage.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run the stages even if they are up to date.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Make a malformed row of the data an error.")
    ] = False,
    executor: Annotated[
        str | None, typer.Option(help="Where the work is done: local or ray.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a pipeline recipe; finished stages are skipped, a killed one continues."""
    from blender_med.cli.console import set_up_logging
    from blender_med.stages.pipeline import open_recipe
    from blender_med.stages.runner import Selection

    set_up_logging(quiet=quiet, verbose=verbose)
    stages = tuple(part.strip() for part in only.split(",")) if only else None
    selection = Selection(only=stages, start=from_, force=force)
    opened = open_recipe(recipe, set_ or [], strict=strict, verbose=verbose, executor=executor)
    if dry_run:
        _print_plan(opened, selection)
    else:
        _run(opened, selection, quiet=quiet)


def status(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until the run ends.")] = False,
) -> None:
    """Show which stages of a run are finished, and how far a running one is."""
    from blender_med.cli.live import print_live, watch_live
    from blender_med.stages import runner

    opened = runner.open_run(run_folder)
    if watch:
        watch_live(opened.folder)
    words = {"skip": "finished", "resume": "unfinished", "run": "not started"}
    _print_table(
        f"{opened.recipe.name}",
        [(p.name, words[p.action], _count(p.rows), p.reason) for p in runner.status(opened)],
    )
    print_live(opened.folder)


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    quiet: Quiet = False,
) -> None:
    """Write the tables of a finished run again."""
    from blender_med.cli.console import set_up_logging
    from blender_med.stages.runner import Selection, open_run

    set_up_logging(quiet=quiet, verbose=False)
    _run(open_run(run_folder), Selection(only=("report",), force=True), quiet=quiet)


def _run(opened: Run, selection: Selection, *, quiet: bool) -> None:
    from blender_med.cli.console import stderr
    from blender_med.executors import open_executor
    from blender_med.executors.progress import ProgressDisplay
    from blender_med.reports.tracking import track
    from blender_med.stages.runner import run_pipeline
    from blender_med.store import heartbeat
    from blender_med.store.lock import run_lock

    _refuse_launcher()
    file = opened.folder / heartbeat.FILE
    with run_lock(opened.folder), track(opened) as tracker:
        try:
            display = ProgressDisplay(stderr, quiet=quiet, file=file)
            with open_executor(opened, display) as executor:
                run_pipeline(opened, executor, selection, tracker.stage_ended)
        finally:
            heartbeat.remove_heartbeat(file)
    if not quiet:
        _print_result(opened)


def _refuse_launcher() -> None:
    """Raise ConfigError where torchrun or accelerate has started this process beside others."""
    from blender_med.errors import ConfigError
    from blender_med.training.processes import process_count

    if (count := process_count()) > 1:
        fix = (
            "start it without the launcher; engines use several GPUs by themselves, and"
            " 'torchrun -m blender_med train' shares a training job"
        )
        problem = f"a launcher has started {count} processes, but a run is one process"
        raise ConfigError(problem, key="WORLD_SIZE", value=count, fix=fix)


def _print_result(opened: Run) -> None:
    from blender_med.cli.console import stdout
    from blender_med.reports.stage import summary

    for note in opened.notes:
        stdout.print(f"- {note}", soft_wrap=True)
    if (table := summary(opened)) is not None:
        stdout.print(table, soft_wrap=True)
        folder = opened.stage_folder("report")
        stdout.print(f"Tables: {folder}", soft_wrap=True)


def _print_plan(opened: Run, selection: Selection) -> None:
    from blender_med.stages.runner import dry_run

    plans = dry_run(opened, selection)
    _print_table(
        f"plan of {opened.recipe.name}",
        [(p.name, p.action, _count(p.rows), p.reason) for p in plans],
    )


def _count(rows: int | None) -> str:
    return "" if rows is None else str(rows)


def _print_table(title: str, rows: list[tuple[str, str, str, str]]) -> None:
    from rich.table import Table

    from blender_med.cli.console import stdout

    table = Table("stage", "state", "rows", "why", title=title)
    for row in rows:
        table.add_row(*row)
    stdout.print(table)
