"""Data sets of the Hugging Face Hub, through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blender_med.data.files import split_of
from blender_med.data.rows import Row
from blender_med.errors import DataError, MissingDependencyError, shorten


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the Hub: ``org/name``, its configuration and revision (None: the default)."""

    id: str
    config: str | None = None
    revision: str | None = None


def hub_rows(source: HubSource) -> Iterator[Row]:
    """Rows of every split.

    Raises:
        DataError: The Hub has no such data set, or cannot be reached.
        MissingDependencyError: ``datasets`` is not installed.
    """
    load = _library().load_dataset
    try:
        loaded = load(source.id, source.config, revision=source.revision)
    except Exception as error:  # the library raises dozens of types, down to socket errors
        problem = f"not on this machine, and not to be had from the Hub: {_first_line(error)}"
        fix = "check the spelling of the path or Hub id; offline, give a local file or folder"
        raise DataError(problem, file=source.id, fix=fix) from error
    yield from _rows(loaded, source.id)


def saved_rows(folder: Path) -> Iterator[Row]:
    """Rows of a folder written by ``Dataset.save_to_disk``.

    Raises:
        DataError: The folder is damaged.
    """
    load = _library().load_from_disk
    try:
        loaded = load(str(folder))
    except Exception as error:
        problem = f"not a folder saved by datasets: {_first_line(error)}"
        raise DataError(problem, file=folder, fix="save the data set again") from error
    yield from _rows(loaded, str(folder))


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        fix = "pip install datasets, or give a local file"
        raise MissingDependencyError("the Hub needs the library datasets", fix=fix) from error
    return datasets


def _rows(loaded: Any, name: str) -> Iterator[Row]:
    splits = loaded if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    for split, rows in splits.items():
        for number, row in enumerate(rows, start=1):
            yield Row(f"{name}:{split}", str(number), dict(row), split, split_of(split, split))


def _first_line(error: Exception) -> str:
    return shorten((str(error) or type(error).__name__).splitlines()[0])
