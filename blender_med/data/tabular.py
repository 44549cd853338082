"""Question sets of one's own: JSON lines, CSV and Parquet with a column map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from blender_med.data import fields
from blender_med.data.config import DatasetConfig
from blender_med.data.files import RowError, SourceFile, split_of
from blender_med.data.loader import Loader
from blender_med.data.rows import Parsed, Row, parse_csv, parse_json, parse_parquet
from blender_med.data.text import text_group
from blender_med.errors import ConfigError, DataError
from blender_med.records import Question
from blender_med.registry import suggestion

_META = ("group", "subject", "question_type", "source")
_COLUMNS = ("id", "split", "question", "context", "options", "answer", "reference", *_META)


class Tabular(Loader):
    """Rows with named columns, long-form or multiple-choice.

    ``columns`` maps a field to its column; a field that is not mapped takes the column of its
    own name where there is one. A row with options is ``mcq`` and needs an answer: an option's
    text, its letter, or its number from ``options: {answer_base: 0}`` (the default) or 1. A row
    without options is ``long`` and needs a reference. Options stand in one column (a list, an
    object by letter, or JSON text of one) or in several: ``options: "A,B,C,D"``.
    """

    settings = frozenset({"answer_base"})
    maps_columns = True
    parse_file: ClassVar[Callable[..., Iterator[Parsed]]]

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        for name in config.columns:
            if name not in _COLUMNS:
                key, fix = f"dataset.columns.{name}", suggestion(name, _COLUMNS)
                raise ConfigError("unknown field to map", key=key, value=name, fix=fix)
        self._base = config.options.get("answer_base", 0)
        if self._base not in (0, 1) or isinstance(self._base, bool):
            key = "dataset.options.answer_base"
            raise ConfigError("unknown base of answers", key=key, value=self._base, fix="0 or 1")

    def parser(self, file: SourceFile) -> Callable[[bytes], Iterator[Parsed]]:
        """The parser of the type, whatever the suffix is."""
        return type(self).parse_file

    def recognises(self, value: Any) -> bool:
        """Any row of named columns will do; which are needed is checked for the whole set."""
        return isinstance(value, Mapping)

    def select(self, rows: list[Row]) -> list[Row]:
        """Check that the columns of the map stand in some row.

        Raises:
            DataError: One does not, or there is no question column.
        """
        known = {str(name) for row in rows if isinstance(row.value, Mapping) for name in row.value}
        for field in dict.fromkeys(("question", *self.config.columns)):
            for column in self._columns(field):
                if column not in known:
                    path, key = self.config.path, f"dataset.columns.{field}"
                    raise DataError(
                        "no such column",
                        file=path,
                        key=key,
                        value=column,
                        fix=suggestion(column, known),
                    )
        self._check_base(rows)
        return rows

    def _check_base(self, rows: list[Row]) -> None:
        """Refuse answers that plainly count from 1 where nothing says so: each would be one off."""
        numbered = [found for row in rows if (found := self._numbered(row)) is not None]
        beyond = sum(number == n_options for number, n_options in numbered)
        if "answer_base" in self.config.options or beyond < 2:
            return
        if all(1 <= number <= n_options for number, n_options in numbered):
            key, fix = "dataset.options.answer_base", "set it to 1, or to 0 to quarantine the rest"
            problem = f"the answers seem to count from 1: {beyond} are the number of the options"
            raise DataError(problem, file=self.config.path, key=key, value=self._base, fix=fix)

    def _numbered(self, row: Row) -> tuple[int, int] | None:
        """(answer, number of options) of a row whose answer is a number and no option's text."""
        try:
            value = fields.mapping(row.value)
            choices = self._options(value)
            answer = str(value.get(self._column("answer"))).strip().removesuffix(".0")
        except RowError:
            return None
        if choices is None or answer in choices or not (answer.isascii() and answer.isdigit()):
            return None
        return int(answer[:4]), len(choices)

    def parse(self, row: Row) -> Question:
        """One question with the text as it stands in the file."""
        value = fields.mapping(row.value)
        question = fields.required(value, self._column("question"))
        choices = self._options(value)
        reference = self._text(value, "reference")
        if choices is None and reference is None:
            raise RowError("the row has neither options nor a reference answer")
        return Question(
            id=f"{row.stem}/{self._text(value, 'id') or row.position}",
            dataset=row.stem,
            split=self._split(value) or row.split or "train",
            task="long" if choices is None else "mcq",
            question=question,
            context=self._text(value, "context"),
            options=choices,
            answer_index=None if choices is None else self._answer(value, choices),
            reference=reference,
            meta=self._meta(value, question, choices),
        )

    def _meta(
        self, value: Mapping[str, Any], question: str, choices: tuple[str, ...] | None
    ) -> dict[str, str]:
        found = {name: self._text(value, name) for name in _META}
        found["group"] = found["group"] or text_group(question)
        return fields.meta(duplicate_options=fields.duplicates_note(choices or ()), **found)

    def _column(self, field: str) -> str:
        return self.config.columns.get(field, field)

    def _columns(self, field: str) -> list[str]:
        column = self._column(field)
        return [c.strip() for c in column.split(",")] if field == "options" else [column]

    def _text(self, value: Mapping[str, Any], field: str) -> str | None:
        return fields.optional(value, self._column(field))

    def _split(self, value: Mapping[str, Any]) -> str | None:
        named = self._text(value, "split")
        if named is not None and not split_of(named, ""):
            raise RowError(f"the split is {named[:60]!r}, not train, dev or test")
        return split_of(named, "") if named else None

    def _options(self, value: Mapping[str, Any]) -> tuple[str, ...] | None:
        columns = self._columns("options")
        found = [value.get(column) for column in columns]
        if all(item is None or item == "" or item == [] for item in found):
            return None
        return tuple(fields.options(found[0] if len(columns) == 1 else found).values())

    def _answer(self, value: Mapping[str, Any], choices: tuple[str, ...]) -> int:
        return fields.answer_index(
            value.get(self._column("answer")),
            choices,
            base=int(self._base),  # type: ignore[arg-type]
        )


class JsonLines(Tabular):
    """JSON lines, or a JSON list."""

    name = "jsonl"
    suffixes = (".jsonl", ".json")
    parse_file = staticmethod(parse_json)


class Csv(Tabular):
    """CSV with a header line."""

    name = "csv"
    suffixes = (".csv",)
    parse_file = staticmethod(parse_csv)


class Parquet(Tabular):
    """Parquet."""

    name = "parquet"
    suffixes = (".parquet",)
    parse_file = staticmethod(parse_parquet)
