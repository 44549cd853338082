"""A user's own file of questions, CSV or JSON lines: every row is kept as it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blender_med.data import fields
from blender_med.data.files import RowError
from blender_med.data.rows import Parsed, parse_csv, parse_json
from blender_med.data.text import storable
from blender_med.errors import DataError
from blender_med.records import Candidate, Question
from blender_med.registry import suggestion

Format = Literal["csv", "jsonl"]
RANKS = "candidate_ranks"  # column of the ranks that `blender-med rank` writes
FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}


@dataclass(frozen=True)
class UserFile:
    """Rows of a file.

    Attributes:
        name: The file, for messages.
        format: What it was read as.
        rows: Mappings from column to cell, in order.
        positions: Line, record or element of each row.
    """

    name: str
    format: Format
    rows: Sequence[Mapping[str, Any]]
    positions: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """Columns of all rows, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def questions(self, question: str = "question", context: str = "context") -> list[Question]:
        """A long-form question for each row, whose id is the place of its row.

        Args:
            question: Column of the question.
            context: Column of a text it is about; it need not be there.

        Raises:
            DataError: There is no such column, or a row has no question.
        """
        self.check_columns([question])
        return [
            Question(
                id=f"row-{number:07d}",
                dataset="file",
                split="test",
                task="long",
                question=self._cell(number, lambda row: fields.required(row, question)),
                context=self._cell(number, lambda row: fields.optional(row, context)),
            )
            for number in range(len(self.rows))
        ]

    def candidates(self, columns: Sequence[str], ranks: str | None = None) -> list[Candidate]:
        """The given answers of each row, in their order.

        Args:
            columns: One column that holds a list of texts (in CSV as JSON), or several that hold a
                text each.
            ranks: Column with a list of the ranks of one column's texts, 1 the best, by which they
                are ordered. Without it, and texts of several columns, keep their order.

        Raises:
            DataError: There is no such column, or a row has no list of texts.
        """
        self.check_columns(columns)
        known = ranks if ranks in self.columns and len(columns) == 1 else None
        found: list[Candidate] = []
        for number in range(len(self.rows)):
            texts = self._cell(number, lambda row: _ordered(row, columns, known))
            found += [
                Candidate(f"row-{number:07d}", name, sample, text) for name, sample, text in texts
            ]
        return found

    def check_columns(self, needed: Sequence[str]) -> None:
        """Raise DataError where a column stands in no row."""
        for name in needed:
            if name not in self.columns:
                raise DataError(
                    "no such column", file=self.name, value=name,
                    fix=suggestion(name, self.columns),
                )  # fmt: skip

    def check_free(self, names: Sequence[str]) -> None:
        """Raise DataError where a column stands already that would be written."""
        for name in names:
            if name in self.columns:
                fix = f"rename the column '{name}' of the file"
                raise DataError("this column would be overwritten", file=self.name, value=name,
                                fix=fix)  # fmt: skip

    def _cell(self, number: int, read: Any) -> Any:
        try:
            return read(self.rows[number])
        except RowError as error:
            raise _row_error(self.name, self.positions[number], str(error)) from error


def _texts(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Column, place in it, and text of each candidate of a row."""
    if len(columns) > 1:
        return iter([(name, 0, _text(row.get(name), name)) for name in columns])
    [name] = columns
    listed = _listed(row, name)
    if not isinstance(listed, list) or not listed:
        raise RowError(f"'{name}' is no list with at least one text")
    return iter([(name, place, _text(text, name)) for place, text in enumerate(listed)])


def _listed(row: Mapping[str, Any], name: str) -> Any:
    """A cell; as text it is JSON."""
    cell = row.get(name)
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise RowError(f"'{name}' is text that is no JSON list") from error


def _ordered(
    row: Mapping[str, Any], columns: Sequence[str], ranks: str | None
) -> list[tuple[str, int, str]]:
    """What `_texts` gives; with ranks the best first, equal ones in their order."""
    texts = list(_texts(row, columns))
    if ranks is None:
        return texts
    own = _ranks(row, ranks, len(texts))
    places = sorted(range(len(texts)), key=own.__getitem__)
    return [(columns[0], new, texts[old][2]) for new, old in enumerate(places)]


def _ranks(row: Mapping[str, Any], name: str, count: int) -> list[int]:
    """Ranks of the texts of a row."""
    ranks = _listed(row, name)
    if (
        not isinstance(ranks, list)
        or len(ranks) != count
        or not all(type(rank) is int and rank > 0 for rank in ranks)
    ):
        raise RowError(f"'{name}' is no list of a rank, 1 or more, for each of {count} texts")
    return ranks


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"'{name}' holds {type(value).__name__} where a text belongs")
    return storable(value)


def read_user_file(data: bytes, name: str) -> UserFile:
    """Rows of a file's content, by the suffix of its name, else by the first character.

    Raises:
        DataError: The file is empty, or a row cannot be read.
    """
    suffix = FORMATS.get(Path(name).suffix.lower())
    chosen: Format = suffix or ("jsonl" if data.lstrip()[:1] in (b"{", b"[") else "csv")
    rows: list[Mapping[str, Any]] = []
    positions: list[str] = []
    for position, value, problem in _parsed(data, chosen, name):
        if problem is None and not isinstance(value, Mapping):
            problem = f"the row is {type(value).__name__}, not named columns"
        if problem is not None:
            raise _row_error(name, position, problem)
        rows.append(value)
        positions.append(position)
    if not rows:
        raise DataError("the file holds no row", file=name, fix="give a file with questions")
    return UserFile(name, chosen, rows, positions)


def _parsed(data: bytes, format: Format, name: str) -> Iterator[Parsed]:
    try:
        yield from (parse_csv if format == "csv" else parse_json)(data)
    except RowError as error:
        raise _row_error(name, "", str(error)) from error


def _row_error(name: str, position: str, problem: str) -> DataError:
    return DataError(problem, file=name, row=position or None, fix="correct or remove the row")
