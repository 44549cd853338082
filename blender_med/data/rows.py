"""Raw rows of JSON, JSON-lines, CSV and Parquet files; what cannot be parsed is kept as such."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from blender_med.data.files import RowError, SourceFile, split_of

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
_MAX_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row before it becomes a record.

    Attributes:
        file: File as shown to the user.
        position: Line, element number from 1, or key; empty for a whole file.
        value: What was parsed; the raw text where ``problem`` says that it could not be.
        stem: File name without suffix, or the split on the Hub; part of made-up ids.
        split: Split the file name or the Hub names; None where neither does.
        problem: Why the row cannot be used.
    """

    file: str
    position: str
    value: Any
    stem: str
    split: str | None = None
    problem: str | None = None


Parsed = tuple[str, Any, str | None]


def file_rows(file: SourceFile, parsed: Iterable[Parsed]) -> Iterator[Row]:
    """Label what was parsed (position, value, problem) with its file and split."""
    split = split_of(file.stem, "") or None
    for position, value, problem in parsed:
        yield Row(file.name, position, value, file.stem, split, problem)


def refused(file: SourceFile, reason: str) -> Row:
    """Row that stands for a whole file that cannot be used."""
    return Row(file.name, "", file.path.name, file.stem, None, reason)


def parse_json(data: bytes, *, keyed: bool = False) -> Iterator[Parsed]:
    """Rows of a JSON list, of JSON lines, or (``keyed``) of an object keyed by an id.

    A truncated list yields its whole elements and one row with a problem for the rest.
    """
    text = data.decode("utf-8-sig", "surrogateescape")
    start = _skip(text, 0)
    if text.startswith("[", start):
        return _checked(_members(text, start, "]", keyed=False))
    if keyed and _is_keyed(text, start):
        return _checked(_members(text, start, "}", keyed=True))
    return _checked(_single(text, start) if _is_single(text, start) else _lines(text))


def _checked(rows: Iterable[tuple[str, Any, str, str | None]]) -> Iterator[Parsed]:
    for position, value, raw, problem in rows:
        if _NOT_UTF8.search(raw):
            yield position, raw, "not valid UTF-8"
        else:
            yield position, (raw if problem else value), problem


def _decoded(text: str, at: int) -> tuple[Any, int, str | None]:
    try:
        value, end = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        return None, at, f"not valid JSON: {error.msg}"
    except RecursionError:
        return None, at, "not valid JSON: nested too deeply"
    except ValueError as error:
        return None, at, f"not valid JSON: {error}"
    return value, end, None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _first_line(text: str, start: int) -> tuple[Any, bool, str]:
    """(value, whether the first line is one whole JSON value, the text after that line)."""
    first, _, rest = text[start:].partition("\n")
    value, end, problem = _decoded(first, 0)
    return value, problem is None and not first[end:].strip(), rest.strip()


def _is_keyed(text: str, start: int) -> bool:
    if not text.startswith("{", start):
        return False
    value, whole, rest = _first_line(text, start)
    if not whole:
        return not rest.startswith("{")
    return not rest and bool(value) and all(isinstance(v, dict) for v in value.values())


def _is_single(text: str, start: int) -> bool:
    """Whether the text is one object written over several lines."""
    if not text.startswith("{", start) or _first_line(text, start)[1]:
        return False
    _, end, problem = _decoded(text, start)
    return problem is None and not text[end:].strip()


def _lines(text: str) -> Iterator[tuple[str, Any, str, str | None]]:
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        value, end, problem = _decoded(stripped, 0)
        if problem is None and end < len(stripped):
            problem = "not valid JSON: text after the end of the row"
        yield str(number), value, stripped, problem


def _single(text: str, start: int) -> Iterator[tuple[str, Any, str, str | None]]:
    value, end, problem = _decoded(text, start)
    yield "1", value, text[start : end if problem is None else None], problem


def _members(
    text: str, start: int, closing: str, *, keyed: bool
) -> Iterator[tuple[str, Any, str, str | None]]:
    at, number = _skip(text, start + 1), 0
    if text.startswith(closing, at):
        yield from _trailing(text, at + 1, number)
        return
    while True:
        number += 1
        position, value, begin, end, problem = _member(text, at, number, keyed)
        yield position, value, text[begin : end if problem is None else None], problem
        if problem is not None:
            return
        at = _skip(text, end)
        if text.startswith(closing, at):
            yield from _trailing(text, at + 1, number)
            return
        if not text.startswith(",", at):
            yield str(number + 1), None, text[at:], f"not valid JSON: no ',' or '{closing}'"
            return
        at = _skip(text, at + 1)


def _member(text: str, at: int, number: int, keyed: bool) -> tuple[str, Any, int, int, str | None]:
    if not keyed:
        value, end, problem = _decoded(text, at)
        return str(number), value, at, end, problem
    key, end, problem = _decoded(text, at)
    colon = _skip(text, end)
    if problem is None and not (isinstance(key, str) and text.startswith(":", colon)):
        problem = "not valid JSON: no key before the value"
    if problem is not None:
        return str(number), None, at, at, problem
    begin = _skip(text, colon + 1)
    value, end, problem = _decoded(text, begin)
    return key, value, begin, end, problem


def _trailing(text: str, at: int, number: int) -> Iterator[tuple[str, Any, str, str | None]]:
    rest = text[at:].strip()
    if rest:
        yield str(number + 1), None, rest, "not valid JSON: text after the end of the list"


def parse_csv(data: bytes) -> Iterator[Parsed]:
    """Rows of a CSV file as mappings from its header; empty lines are no rows.

    Raises:
        RowError: There is no header, or a column stands in it twice.
    """
    records = csv_records(data)
    _, header, problem = next(records, ("", [], None))
    names = [name.strip() for name in header]
    if problem or not any(names):
        raise RowError(f"no header line with column names{': ' + problem if problem else ''}")
    if len(set(names)) < len(names):
        raise RowError("a column stands twice in the header")
    for position, cells, problem in records:
        if problem is None and len(cells) != len(names):
            problem = f"{len(cells)} cells in a row, {len(names)} in the header"
        yield position, cells if problem else dict(zip(names, cells, strict=True)), problem


def csv_records(data: bytes) -> Iterator[tuple[str, list[str], str | None]]:
    """(number of the record from 1, cells, problem) of each record that is not empty."""
    csv.field_size_limit(_MAX_FIELD)  # the default of 128 KiB is less than some articles
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""))
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(number), [], f"not valid CSV: {error}"
            continue
        if not any(cells):
            continue
        invalid = any(_NOT_UTF8.search(cell) for cell in cells)
        yield str(number), cells, "not valid UTF-8" if invalid else None


def parse_parquet(data: bytes) -> Iterator[Parsed]:
    """Rows of a Parquet file as mappings.

    Raises:
        RowError: It is not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RowError(f"not a readable Parquet file: {error}") from error
    for start in range(0, table.num_rows, 1000):
        batch = table.slice(start, 1000)
        try:
            rows: list[Parsed] = [("", row, None) for row in batch.to_pylist()]
        except ValueError:  # somewhere a text is not UTF-8
            rows = [_parquet_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        for number, (_, value, problem) in enumerate(rows, start=start + 1):
            yield str(number), value, problem


def _parquet_row(table: Any) -> Parsed:
    try:
        return "", table.to_pylist()[0], None
    except ValueError as error:
        return "", None, f"not readable: {error}"
