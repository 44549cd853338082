"""Command line: ``blender-med COMMAND``. One module per group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script: errors become one message and exit code 1 or 2."""
    from blender_med.cli.app import run_app

    sys.exit(run_app())
