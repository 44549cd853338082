"""States on disk: written, read back by key, and what is wrong with damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blender_med.errors import BlenderMedError, DataError, StoreError
from blender_med.fusers.hidden_states import Key, StateStore, states_path, write_states
from blender_med.records import HiddenState
from blender_med.store.shards import part_path, write_part

KEYS = [Key("q1", "option:0"), Key("q1", "option:1"), Key("q2", "question")]
ROWS = [np.full((2, 3), float(i), dtype=np.float32) + 0.5 for i in range(3)]


def part(folder: Path, expert: str, keys: list[Key] = KEYS, dtype: str = "float16") -> Path:
    path = part_path(folder, f"{expert}-{keys[0].question_id}")
    write_states(states_path(path), ROWS[: len(keys)], keys, dtype)
    index = [HiddenState(k.question_id, expert, k.text, i) for i, k in enumerate(keys)]
    write_part(path, index, HiddenState)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back_in_the_order_asked_for(tmp_path: Path, dtype: str) -> None:
    part(tmp_path, "a", dtype=dtype)
    part(tmp_path, "b", [Key("q9", "question")], dtype)
    store = StateStore(tmp_path)
    rows = store.rows("a", [KEYS[2], KEYS[0], KEYS[2]])
    assert rows.dtype == np.float32
    assert rows[:, 0, 0].tolist() == [2.5, 0.5, 2.5]
    assert store.rows("a", []).shape == (0, 2, 3)
    assert (store.width("a"), store.slots("a"), store.experts) == (3, 2, ("a", "b"))
    assert store.has("a", KEYS[0]) and not store.has("b", KEYS[0])
    assert list(store.texts("a")) == KEYS
    mapped = np.load(tmp_path / "part-a-q1.npy", mmap_mode="r")
    assert mapped.dtype == dtype and isinstance(mapped, np.memmap)


def test_missing_rows_are_named(tmp_path: Path) -> None:
    part(tmp_path, "a")
    store = StateStore(tmp_path)
    with pytest.raises(DataError, match=r"no states of expert 'a' for question of question q7"):
        store.rows("a", [KEYS[0], Key("q7", "question")])
    with pytest.raises(DataError, match="no states of expert 'b', only of a"):
        store.rows("b", KEYS)
    with pytest.raises(StoreError, match="no hidden states here"):
        StateStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float32"), (7e4, "float16")]
)
def test_states_that_are_not_finite_are_not_written(
    tmp_path: Path, value: float, dtype: str
) -> None:
    bad = [row.copy() for row in ROWS]
    bad[1][0, 2] = value
    with pytest.raises(DataError, match=f"q1, option:1, are not finite as {dtype}"):
        write_states(tmp_path / "part-x.npy", bad, KEYS, dtype)
    assert list(tmp_path.iterdir()) == []
    write_states(tmp_path / "part-x.npy", [np.full((1, 1), 7e4, np.float32)], KEYS[:1], "float32")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = states_path(part(tmp_path, "a"))
    good = path.read_bytes()
    for content in (good[:-4], b"", b"not an array", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(StoreError, match=r"part-a-q1\.npy.*damaged states.*stage embed again"):
            StateStore(tmp_path)
    write_states(path, ROWS[:2], KEYS, "float16")
    with pytest.raises(StoreError, match="2 rows of states, 3 in the index"):
        StateStore(tmp_path)


def test_an_index_that_contradicts_itself(tmp_path: Path) -> None:
    path = part(tmp_path, "a", [Key("q1", "question")])
    other = part_path(tmp_path, "a-twice")
    write_states(states_path(other), ROWS[:1], KEYS, "float16")
    write_part(other, [HiddenState("q1", "a", "question", 0)], HiddenState)
    with pytest.raises(StoreError, match="question of question q1 stands twice"):
        StateStore(tmp_path)
    write_states(states_path(other), [np.zeros((1, 3), np.float32)], KEYS[:1], "float16")
    write_part(other, [HiddenState("q2", "a", "question", 0)], HiddenState)
    with pytest.raises(StoreError, match="states of 'a' of other shapes"):
        StateStore(tmp_path)
    other.unlink()
    write_part(path, [HiddenState("q1", "a", "question", 5)], HiddenState)
    with pytest.raises(BlenderMedError, match="row 5 of 1"):
        StateStore(tmp_path).rows("a", [Key("q1", "question")])
