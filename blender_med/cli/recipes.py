"""``blender-med recipes``: list and copy the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List and copy the shipped recipes.", no_args_is_help=True)


@app.command("list")
def list_recipes() -> None:
    """Print the shipped recipes, one path a line."""
    from blender_med.recipes_folder import shipped_recipes, shipped_root

    for path in shipped_recipes():
        typer.echo(path.relative_to(shipped_root()))


@app.command("copy")
def copy_recipe(
    recipe: Annotated[Path, typer.Argument(help="Path as 'recipes list' prints it.")],
    target: Annotated[Path, typer.Argument(help="File or folder to copy to.")] = Path(),
) -> None:
    """Copy a shipped recipe, to be edited."""
    import shutil

    from blender_med.errors import ConfigError
    from blender_med.recipes_folder import find_recipe

    source = find_recipe(recipe)
    file = target if target.suffix in (".yaml", ".yml") else target / source.name
    if file.exists():
        fix = "name another target or remove that file"
        raise ConfigError("the target exists already", file=file, fix=fix)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, file)
    typer.echo(file)
