"""``blender-med doctor``: what this machine has, and what will and will not run on it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not try to reach the Hub.")
    ] = False,
) -> None:
    """Check the machine: processors, memory, disk, libraries, weights, the Hub."""
    from rich.table import Table

    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.cli.machine import expert_findings, machine_findings

    set_up_logging(quiet=True, verbose=False)
    findings = machine_findings(offline=offline)
    reachable = any(f.name == "Hub" and f.state == "ok" for f in findings)
    for title, rows in (
        ("this machine", findings),
        ("shipped experts", expert_findings(hub=reachable)),
    ):
        table = Table(title, "", "what")
        for row in rows:
            table.add_row(row.name, row.state, row.what)
        stdout.print(table)
