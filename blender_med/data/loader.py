"""What every loader of a data set does: find files, parse rows, refuse what is malformed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from blender_med.data.config import DatasetConfig
from blender_med.data.files import RowError, SourceFile, source_files
from blender_med.data.hub import HubSource, hub_rows, saved_rows
from blender_med.data.quarantine import QuarantinedRow, shortened
from blender_med.data.rows import (
    Parsed,
    Row,
    file_rows,
    parse_csv,
    parse_json,
    parse_parquet,
    refused,
)
from blender_med.errors import ConfigError, DataError
from blender_med.records import Passage, Question
from blender_med.registry import suggestion

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Loader(ABC):
    """Reads one type of data set.

    Attributes:
        name: Type name in recipes.
        record: Question or Passage.
        hub: Where the data set stands on the Hub; used when the recipe has no path.
        suffixes: Files looked at in folders and zips.
        signature: A row with none of these keys is not a row of this type.
        settings: Names that ``options`` of the recipe may have.
        maps_columns: Whether ``columns`` of the recipe is used.
        is_shipped: Whether the data set comes with the project, so that it needs no path.
    """

    name: ClassVar[str]
    record: ClassVar[type[Question] | type[Passage]] = Question
    hub: ClassVar[HubSource | None] = None
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".parquet")
    signature: ClassVar[frozenset[str]] = frozenset()
    settings: ClassVar[frozenset[str]] = frozenset()
    maps_columns: ClassVar[bool] = False
    is_shipped: ClassVar[bool] = False

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        known = self.settings | ({"revision", "config"} if self.hub else set())
        for name in config.options:
            if name not in known:
                fix = suggestion(name, known) if known else f"type {self.name} has no options"
                raise ConfigError(
                    "unknown option of the data set", key=f"dataset.options.{name}", fix=fix
                )
        if config.columns and not self.maps_columns:
            fix = "remove 'columns', or use the type jsonl, csv or parquet"
            raise ConfigError(f"type {self.name} has fixed columns", key="dataset.columns", fix=fix)

    @abstractmethod
    def parse(self, row: Row) -> Question | Passage:
        """The record of one row.

        Raises:
            RowError: The row is malformed.
        """

    def load(self) -> Iterator[Question | Passage | QuarantinedRow]:
        """One item for every row, in the order of the files.

        Raises:
            DataError: The path is missing or empty, or is not a data set of this type.
        """
        rows = list(self.rows())
        self.check(rows)
        items = [self.item(row) for row in self.select(rows)]
        yield from self.finish(items)

    def rows(self) -> Iterator[Row]:
        """Raw rows from the Hub, a folder saved by ``datasets``, or files."""
        source = self.hub_source()
        if source is not None:
            yield from hub_rows(source)
            return
        path = Path(str(self.config.path))
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            yield from saved_rows(path)
            return
        for file in self.files(path):
            yield from self.read(file)

    def hub_source(self) -> HubSource | None:
        """Data set on the Hub to read; None where ``path`` is on this machine."""
        path = self.config.path
        if path is not None and (self.config.is_local or not _HUB_ID.fullmatch(path)):
            return None
        if path is None and self.hub is None:
            fix = "give a file or folder"
            raise DataError(f"type {self.name} needs a path", key="dataset.path", fix=fix)
        default = self.hub or HubSource(str(path))
        own = default.config if path in (None, default.id) else None
        return HubSource(path or default.id, self._option("config", own), self._option("revision"))

    def _option(self, option: str, default: str | None = None) -> str | None:
        value = self.config.options.get(option)
        return default if value is None else str(value)

    def files(self, path: Path) -> Iterator[SourceFile]:
        """Files of ``path``; of a downloaded Hub repository those of one configuration."""
        name = self._option("config", self.hub.config if self.hub else None)
        inner = path / name if name else path
        return source_files(inner if inner.is_dir() else path, self.suffixes)

    def companions(self) -> list[Path]:
        """Files outside ``path`` that decide what is loaded; they are part of its identity."""
        return []

    def read(self, file: SourceFile) -> Iterator[Row]:
        """Raw rows of one file; a file that cannot be read is one row with a problem."""
        try:
            yield from file_rows(file, self.parser(file)(file.read()))
        except RowError as error:
            yield refused(file, str(error))

    def parser(self, file: SourceFile) -> Callable[[bytes], Iterator[Parsed]]:
        """Parser for the file's format, by its suffix; JSON where the suffix says nothing."""
        return {".parquet": parse_parquet, ".csv": parse_csv}.get(file.suffix, parse_json)

    def recognises(self, value: Any) -> bool:
        """Whether a parsed row looks like this type at all."""
        return isinstance(value, dict) and not self.signature.isdisjoint(value)

    def check(self, rows: list[Row]) -> None:
        """Refuse an empty data set and one of another type.

        Raises:
            DataError: There is no row, or none looks like this type.
        """
        path = self.config.path or (self.hub.id if self.hub else "")
        if not rows:
            fix = f"give a file or folder with {', '.join(self.suffixes)} files that hold rows"
            raise DataError("the data set is empty", file=path, fix=fix)
        if not any(row.problem is None and self.recognises(row.value) for row in rows):
            first = rows[0]
            fix = f"give a whole file in UTF-8, with the 'type' that it has{self._row_keys()}"
            problem = f"not a {self.name} data set: {first.problem or 'no row has its keys'}"
            value = shortened(first.value)
            raise DataError(
                problem, file=first.file, row=first.position or None, value=value, fix=fix
            )

    def _row_keys(self) -> str:
        listed = " or ".join(f"'{name}'" for name in sorted(self.signature))
        return f"; a {self.name} row has {listed}" if listed else ""

    def select(self, rows: list[Row]) -> list[Row]:
        """Rows to parse, after a look at all of them."""
        return rows

    def finish(
        self, items: list[Question | Passage | QuarantinedRow]
    ) -> list[Question | Passage | QuarantinedRow]:
        """Items after a look at all of them, in the same order."""
        return items

    def item(self, row: Row) -> Question | Passage | QuarantinedRow:
        """The record of a row, or the reason why there is none."""
        try:
            if row.problem is not None:
                raise RowError(row.problem)
            return self.parse(row)
        except RowError as error:
            return QuarantinedRow(row.file, row.position, str(error), shortened(row.value))


def by_file(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows grouped by the file they stand in, in order."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.file].append(row)
    return dict(grouped)
