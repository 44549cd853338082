"""``blender-med experts``: have the weights ready before a run."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Fetch or convert the weights of experts.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``prepare`` a command of its own while it is the only one."""


@app.command("prepare")
def prepare(
    experts: Annotated[list[str], typer.Argument(help="Names or paths of expert recipes.")],
) -> None:
    """Download or convert weights now, so that a run starts at once and needs no network."""
    from blender_med.cli.console import set_up_logging
    from blender_med.experts.loading import load_expert_config
    from blender_med.experts.local import fetch_weights

    set_up_logging(quiet=False, verbose=False)
    for name in experts:
        typer.echo(f"{name}: {fetch_weights(load_expert_config(name))}")
