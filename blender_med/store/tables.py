"""Records as rows of Arrow tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from blender_med.records import R, Record

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 4096
# Columns of few different texts: each stands in memory once, however often it is read.
_REPEATED = frozenset(
    {"dataset", "expert", "finish_reason", "method", "metric", "model_revision", "protocol"}
)

_SCHEMAS: dict[str, pa.Schema] = {}


def arrow_schema(record_type: type[Record]) -> pa.Schema:
    """Arrow schema of a record type, in the order of its fields."""
    if record_type.__name__ not in _SCHEMAS:
        _SCHEMAS[record_type.__name__] = _schema(record_type)
    return _SCHEMAS[record_type.__name__]


def _schema(record_type: type[Record]) -> pa.Schema:
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "str": pa.string(),
        "str | None": pa.string(),
        "Task": pa.string(),
        "Protocol": pa.string(),
        "int": pa.int64(),
        "int | None": pa.int64(),
        "float": pa.float64(),
        "float | None": pa.float64(),
        "tuple[str, ...]": pa.list_(pa.string()),
        "tuple[str, ...] | None": pa.list_(pa.string()),
        "tuple[int, ...]": pa.list_(pa.int64()),
        "tuple[float, ...]": pa.list_(pa.float64()),
        "tuple[float, ...] | None": pa.list_(pa.float64()),
        "tuple[tuple[float, ...], ...] | None": pa.list_(pa.list_(pa.float64())),
        "Mapping[str, str]": pa.map_(pa.string(), pa.string()),
        "Mapping[str, float]": pa.map_(pa.string(), pa.float64()),
    }
    return pa.schema(
        [
            pa.field(f.name, types[str(f.type)], nullable="None" in str(f.type))
            for f in fields(record_type)
        ]
    )


def to_table(records: Iterable[Record], record_type: type[Record]) -> pa.Table:
    """Rows of ``record_type`` as an Arrow table; an empty iterable gives an empty table."""
    import pyarrow as pa

    names = [f.name for f in fields(record_type)]
    rows = [{name: _plain(getattr(r, name)) for name in names} for r in records]
    return pa.Table.from_pylist(rows, schema=arrow_schema(record_type))


def from_table(table: pa.Table, record_type: type[R]) -> Iterator[R]:
    """Records of an Arrow table with the schema of ``record_type``."""
    maps = {f.name for f in fields(record_type) if str(f.type).startswith("Mapping[")}
    repeated = [f.name for f in fields(record_type) if f.name in _REPEATED]
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            values: dict[str, Any] = {
                name: dict(value) if name in maps else _frozen(value) for name, value in row.items()
            }
            for name in repeated:
                if isinstance(values[name], str):
                    values[name] = sys.intern(values[name])
            yield record_type(**values)


def _plain(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
