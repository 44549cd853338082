"""Where recipes are: in the current folder, in the checkout, or shipped inside the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blender_med.errors import ConfigError
from blender_med.registry import suggestion

FOLDERS = ("pipelines", "experts", "rankers", "fusers", "data")


def shipped_root() -> Path:
    """Folder that holds the shipped recipe folders.

    An installed wheel carries them inside the package; a checkout has them at its top level.
    """
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent


def shipped_recipes() -> Iterator[Path]:
    """Every recipe file that comes with blender_med, folder by folder."""
    for folder in FOLDERS:
        yield from sorted((shipped_root() / folder).glob("*.yaml"))


def find_recipe(path: Path) -> Path:
    """The file itself where it exists, else the shipped recipe of that relative path.

    Raises:
        ConfigError: There is neither.
    """
    if path.is_file():
        return path
    shipped = shipped_root() / path
    if not path.is_absolute() and path.suffix == ".yaml" and shipped.is_file():
        return shipped
    known = [str(p.relative_to(shipped_root())) for p in shipped_recipes()]
    raise ConfigError("no such recipe file", file=path, fix=suggestion(str(path), known))
