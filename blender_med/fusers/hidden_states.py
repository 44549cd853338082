"""Hidden states on disk: NumPy files that are mapped into memory, and an index of their rows.

Beside each shard ``part-NAME.parquet`` of :class:`~blender_med.records.HiddenState` lies
``part-NAME.npy``, an array [rows, slots, width] of float16 or float32. A training job reads the
rows of a batch alone, so its memory does not depend on the number of questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blender_med.errors import DataError, StoreError
from blender_med.records import HiddenState
from blender_med.store.files import atomic_path
from blender_med.store.shards import part_paths, read_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTION_ENCODER = "question-encoder"  # in place of an expert's name

_OPEN_FILES = 256


class Key(NamedTuple):
    """A text: question and what of it, see :class:`~blender_med.records.HiddenState`."""

    question_id: str
    text: str


def states_path(part: Path) -> Path:
    """File of the states that belong to a shard of the index."""
    return part.with_suffix(".npy")


def write_states(
    path: Path, states: Sequence[NDArray[np.float32]], keys: Sequence[Key], dtype: str
) -> None:
    """Write one array, atomically.

    Args:
        path: The ``.npy`` file.
        states: Of each text, all of one shape [slots, width].
        keys: Of the texts, for messages.
        dtype: ``float16`` or ``float32``.

    Raises:
        DataError: A state is NaN or infinite, or becomes so in this format.
        StoreError: The file cannot be written.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        array = np.stack(states).astype(dtype) if states else np.zeros((0, 1, 0), dtype)
    finite = np.isfinite(array).all(axis=(1, 2))
    if not finite.all():
        key = keys[int(np.flatnonzero(~finite)[0])]
        fix = "set dtype: float32 (float16 ends at 65,504), or another layer"
        problem = f"states of question {key.question_id}, {key.text}, are not finite as {dtype}"
        raise DataError(problem, key="embed.dtype", value=dtype, fix=fix)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


class StateStore:
    """The states of a folder, read by key: the order in which they were written does not matter.

    Args:
        folder: Of stage ``embed``.

    Raises:
        StoreError: There are none, a file is missing or damaged, the rows of an expert differ
            in shape, or a text stands twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, dict[Key, tuple[Path, int]]] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        for part in part_paths(folder):
            self._add(part)
        if not self._places:
            fix = "run stage embed first"
            raise StoreError("no hidden states here", file=folder, fix=fix)

    def _add(self, part: Path) -> None:
        rows = list(read_part(part, HiddenState))
        if not rows:
            return
        path, array = states_path(part), _mapped(states_path(part))
        if len(array) != len(rows):
            raise _damaged(path, f"{len(array)} rows of states, {len(rows)} in the index")
        for row in rows:
            shape = self._shapes.setdefault(row.expert, (array.shape[1], array.shape[2]))
            if array.shape[1:] != shape:
                raise _damaged(path, f"states of '{row.expert}' of other shapes")
            known = self._places.setdefault(row.expert, {})
            key = Key(row.question_id, row.text)
            if key in known:
                raise _damaged(path, f"{key.text} of question {key.question_id} stands twice")
            known[key] = path, row.row

    def width(self, expert: str) -> int:
        """Width of an expert's states."""
        self._check_expert(expert)
        return self._shapes[expert][1]

    def slots(self, expert: str) -> int:
        """Vectors for each text of an expert."""
        self._check_expert(expert)
        return self._shapes[expert][0]

    @property
    def experts(self) -> tuple[str, ...]:
        """Whose states there are, in the order of the files."""
        return tuple(self._places)

    def has(self, expert: str, key: Key) -> bool:
        """Whether the states of a text are there."""
        return key in self._places.get(expert, {})

    def check(self, expert: str, keys: Iterable[Key]) -> None:
        """Check that the states of some texts are there.

        Raises:
            DataError: The states of the expert or of a text are missing.
        """
        self._check_expert(expert)
        for key in keys:
            self._place(expert, key)

    def texts(self, expert: str) -> Iterator[Key]:
        """Keys of all texts of an expert."""
        self._check_expert(expert)
        yield from self._places[expert]

    def rows(
        self, expert: str, keys: Iterable[Key], *, sparse: bool = False
    ) -> NDArray[np.float32]:
        """States of some texts in the order of ``keys``, [texts, slots, width], a copy.

        Args:
            expert: Name of the expert.
            keys: Of the texts.
            sparse: Whether texts may be missing; their rows are NaN.

        Raises:
            DataError: The states of an expert or of a text are missing.
        """
        import numpy as np

        self._check_expert(expert)
        listed = list(keys)
        rows = np.full((len(listed), *self._shapes[expert]), np.nan, np.float32)
        in_file: dict[Path, list[tuple[int, int]]] = defaultdict(list)
        for i, key in enumerate(listed):
            if not sparse or self.has(expert, key):
                path, row = self._place(expert, key)
                in_file[path].append((i, row))
        for path, own in in_file.items():
            rows[[i for i, _ in own]] = _rows_at(path, [row for _, row in own])
        return rows

    def _place(self, expert: str, key: Key) -> tuple[Path, int]:
        place = self._places[expert].get(key)
        if place is None:
            problem = f"no states of expert '{expert}' for {key.text} of question {key.question_id}"
            raise DataError(problem, file=self._folder, fix="run stage embed on these texts")
        return place

    def _check_expert(self, expert: str) -> None:
        if expert not in self._places:
            problem = f"no states of expert '{expert}', only of {', '.join(self._places)}"
            fix = "add the expert to the run and run stage embed"
            raise DataError(problem, file=self._folder, fix=fix)


@lru_cache(_OPEN_FILES)
def _mapped_at(path: Path, changed: int) -> NDArray[np.floating[Any]]:
    import numpy as np

    array: NDArray[np.floating[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _mapped(path: Path) -> NDArray[np.floating[Any]]:
    """The array of a file, mapped; a file that was written anew is mapped anew."""
    try:
        array = _mapped_at(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    if array.ndim != 3 or array.dtype.kind != "f":
        raise _damaged(path, f"not an array of floats [rows, slots, width]: {array.shape}")
    return array


def _rows_at(path: Path, rows: list[int]) -> NDArray[np.floating[Any]]:
    array = _mapped(path)
    for row in (min(rows), max(rows)):
        if not 0 <= row < len(array):
            raise _damaged(path, f"the index names row {row} of {len(array)}")
    chosen: NDArray[np.floating[Any]] = array[rows]
    return chosen


def _damaged(path: Path, problem: str) -> StoreError:
    fix = "delete this file and the shard beside it, and run stage embed again"
    return StoreError(f"damaged states: {problem}", file=path, fix=fix)
