"""``blender-med validate``: check recipes without loading a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blender_med.cli.run import Overrides


def validate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files.")],
    set_: Overrides = None,
) -> None:
    """Check recipes: types, files, columns, expert and metric names."""
    from blender_med.errors import BlenderMedError
    from blender_med.stages.validation import validate_recipe

    wrong = 0
    for recipe in recipes:
        try:
            typer.echo(f"ok: {recipe} ({validate_recipe(recipe, set_ or [])})")
        except BlenderMedError as error:
            wrong += 1
            place = "" if error.file else f"{recipe}: "
            print(f"error: {place}{error}", file=sys.stderr)
    if wrong:
        raise typer.Exit(2)
