"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blender_med.errors import StoreError
from blender_med.store.files import explained_writes

LOCK = "run.lock"
_TRIES = 20
_SECONDS_BETWEEN_TRIES = 0.05


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``run.lock`` of a run directory; the system frees it when the process ends.

    Raises:
        StoreError: Another process holds it, or the folder is not writable.
    """
    path = folder / LOCK
    with explained_writes(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    with file:
        _acquire(file, path)
        with explained_writes(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def lock_holder(folder: Path) -> str | None:
    """Id of the process that runs in a run directory; None where none does."""
    try:
        with (folder / LOCK).open("rb") as file:
            return None if _try_lock(file, fcntl.LOCK_SH) else _holder(folder / LOCK)
    except OSError:
        return None


def _acquire(file: IO[bytes], path: Path) -> None:
    if not (_try_lock(file, fcntl.LOCK_EX) or _try_again(file)):
        holder = _holder(path)
        fix = f"wait for process {holder} or end it; 'status' shows its progress"
        raise StoreError(f"process {holder} is running here", file=path, fix=fix)


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_again(file: IO[bytes]) -> bool:
    """:func:`lock_holder` holds the lock for an instant, which is no run."""
    time.sleep(_SECONDS_BETWEEN_TRIES)
    return _try_lock(file, fcntl.LOCK_EX)


def _holder(path: Path) -> str:
    """What the holder has written; it does so a moment after it has got the lock."""
    for _ in range(_TRIES):
        holder = path.read_text(errors="replace").strip()
        if holder and Path(f"/proc/{holder}").exists():
            return holder
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return holder or "unknown"  # of another machine that shares the folder
