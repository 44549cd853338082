"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blender_med.errors import StoreError

LOCK = "run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``run.lock`` of a run directory; the system frees it when the process ends.

    Raises:
        StoreError: Another process holds it, or the folder is not writable.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        fix = "choose a writable output_dir"
        raise StoreError(f"cannot write: {error.strerror}", file=path, fix=fix) from error
    with file:
        _acquire(file, path)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(file: object, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except OSError as error:
        holder = path.read_text().strip() or "unknown"
        fix = f"wait for process {holder} or end it; 'status' shows its progress"
        raise StoreError(f"process {holder} is running here", file=path, fix=fix) from error
