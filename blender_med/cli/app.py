"""The typer application: parse, validate, call."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from blender_med import __version__
from blender_med.cli import (
    blend,
    compare,
    data,
    doctor,
    experts,
    export,
    grades,
    recipes,
    run,
    train,
    validate,
)
from blender_med.errors import BlenderMedError, ConfigError, StoreError

app = typer.Typer(
    name="blender-med",
    help="Ask several open language models, rank their answers, compose a better one.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("status")(run.status)
app.command("report")(run.report)
app.command("compare")(compare.compare)
app.command("validate")(validate.validate)
app.command("blend")(blend.blend)
app.command("rank")(blend.rank)
app.command("fuse")(blend.fuse)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("rank-graded")(grades.rank_graded)
app.add_typer(data.app, name="data")
app.add_typer(experts.app, name="experts")
app.add_typer(recipes.app, name="recipes")

_INTERRUPTED = 130
# Disk full, quota, read-only, no permission, file too large: no bug, wherever it comes up.
_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG,
}  # fmt: skip


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def run_app() -> int:
    """Run the command of ``sys.argv``; returns the exit code.

    1: something failed while running. 2: a recipe or an argument is wrong. 130: Ctrl-C.
    """
    try:
        code = app(standalone_mode=False)
    except BlenderMedError as error:
        return _report(error)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        problem = f"the system refuses: {error.strerror}"
        fix = "free disk space or get the rights to this file, then run the same command again"
        return _report(StoreError(problem, file=error.filename, fix=fix))
    except Exception as error:
        return _usage_or_raise(error)
    if code == _INTERRUPTED:
        print("stopped; run the same command again to continue", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _report(error: BlenderMedError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1


def _usage_or_raise(error: Exception) -> int:
    """Show a wrong command line as typer does; anything else is a bug and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))
