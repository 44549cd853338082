"""Records that are read from their shards when they are asked for."""

from __future__ import annotations

import pytest

from blender_med.errors import StoreError
from blender_med.records import Score
from blender_med.store import shards
from blender_med.store.shards import StoredRecords, part_path, write_part


@pytest.fixture
def folder(tmp_path):
    """Shards of 3, 0 and 4 records, numbered from 0."""
    numbers = iter(range(7))
    for name, rows in (("a", 3), ("b", 0), ("c", 4)):
        records = [Score(f"q{next(numbers)}", "e", 0, "bleu", 1.0) for _ in range(rows)]
        write_part(part_path(tmp_path, name), records, Score)
    return tmp_path


def test_it_is_a_sequence(folder) -> None:
    stored = StoredRecords(folder, Score)
    ids = [f"q{i}" for i in range(7)]
    assert len(stored) == 7
    assert [score.question_id for score in stored] == ids
    assert [stored[i].question_id for i in range(-7, 7)] == ids + ids
    for part in (slice(2, 5), slice(0, 100), slice(5, 2), slice(None, None, -2)):
        assert [score.question_id for score in stored[part]] == ids[part]
    with pytest.raises(IndexError):
        stored[7]


def test_a_shard_is_read_once_for_its_neighbours(folder, monkeypatch) -> None:
    read, reading = [], shards.read_part
    monkeypatch.setattr(
        shards, "read_part", lambda path, kind: (read.append(path.name), reading(path, kind))[1]
    )
    stored = StoredRecords(folder, Score)
    assert len(stored) == 7 and read == []
    _ = stored[0:2], stored[2], stored[3:7]
    assert read == ["part-a.parquet", "part-c.parquet"]


def test_no_shards_are_no_records(tmp_path) -> None:
    assert list(StoredRecords(tmp_path, Score)) == [] and len(StoredRecords(tmp_path, Score)) == 0


def test_a_damaged_shard_is_an_error(folder) -> None:
    path = part_path(folder, "c")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match="damaged shard"):
        StoredRecords(folder, Score)
