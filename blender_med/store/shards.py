"""Atomic Parquet shards: one file ``part-<unit>.parquet`` per unit of work of a stage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from blender_med.errors import StoreError
from blender_med.records import R, Record
from blender_med.store.files import atomic_path
from blender_med.store.tables import arrow_schema, from_table, to_table


def part_path(folder: Path, unit: str) -> Path:
    """Path of the shard of one unit of work."""
    return folder / f"part-{unit}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """Shards of a stage, sorted by name."""
    return sorted(folder.glob("part-*.parquet"))


def write_part(path: Path, records: Iterable[Record], record_type: type[Record]) -> int:
    """Write records as one shard, atomically; returns the number of rows.

    Pages carry checksums: a reader notices a damaged one.
    """
    import pyarrow.parquet as pq

    table = to_table(records, record_type)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return int(table.num_rows)


def part_rows(path: Path, record_type: type[Record]) -> int | None:
    """Rows of a shard, or None where it is missing, truncated or of another schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        return int(file.metadata.num_rows) if names == arrow_schema(record_type).names else None
    except (OSError, pa.ArrowException):
        return None


def read_part(path: Path, record_type: type[R]) -> Iterator[R]:
    """Records of one shard.

    Raises:
        StoreError: The shard is missing, damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(
            path, schema=arrow_schema(record_type), partitioning=None,
            page_checksum_verification=True,
        )  # fmt: skip
    except (OSError, pa.ArrowException) as error:
        fix = "delete this file and run the same command again: only this shard is made anew"
        raise StoreError(f"damaged shard: {error}", file=path, fix=fix) from error
    yield from from_table(table, record_type)


def read_parts(folder: Path, record_type: type[R]) -> Iterator[R]:
    """Records of all shards of a stage, one shard in memory at a time."""
    for path in part_paths(folder):
        yield from read_part(path, record_type)


class StoredRecords(Sequence[R]):
    """Records of all shards of a stage, in their order, read when they are asked for.

    One shard is in memory at a time, the one that was read last.

    Args:
        folder: Of the stage; without shards there are no records.
        record_type: What it writes.

    Raises:
        StoreError: A shard is damaged.
    """

    def __init__(self, folder: Path, record_type: type[R]) -> None:
        self._record_type: type[R] = record_type
        self._paths = part_paths(folder)
        self._starts: list[int] = [0, *accumulate(_rows(path, record_type) for path in self._paths)]
        self._last: tuple[int, list[R]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[R]:
        for path in self._paths:
            yield from read_part(path, self._record_type)

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> list[R]: ...

    def __getitem__(self, place: int | slice) -> R | list[R]:
        places = range(len(self))[place]
        return self._at(places) if isinstance(places, int) else [self._at(i) for i in places]

    def _at(self, position: int) -> R:
        part = bisect_right(self._starts, position) - 1
        last = self._last  # another thread may put another shard there
        if last is None or last[0] != part:
            last = self._last = part, list(read_part(self._paths[part], self._record_type))
        return last[1][position - self._starts[part]]


def _rows(path: Path, record_type: type[Any]) -> int:
    rows = part_rows(path, record_type)
    if rows is None:
        fix = "delete this file and run the same command again: only this shard is made anew"
        raise StoreError("damaged shard", file=path, fix=fix)
    return rows
