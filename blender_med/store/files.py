"""Atomic files and content hashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from blender_med.errors import StoreError

_BLOCK = 1 << 20
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; flush and rename it on success.

    A reader sees the old file or the whole new one, also after kill -9 or a power cut.

    Raises:
        StoreError: The disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        fix = "free disk space or make the folder writable, then run the same command again"
        raise StoreError(f"cannot write: {error.strerror or error}", file=path, fix=fix) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed :func:`atomic_path` has left in ``folder``."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def spreadsheet_text(text: str) -> str:
    """``text`` with NUL and lone surrogates escaped, and an apostrophe before a formula."""
    clean = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{clean}" if clean.startswith(_FORMULA_STARTS) else clean


def read_json(path: Path) -> Any | None:
    """The JSON value of a file, or None where the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def canonical_sha256(value: Any) -> str:
    """Hash of plain JSON data that does not depend on the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def file_sha256(path: Path, on_block: Callable[[int], None] | None = None) -> str:
    """Hash of a file's content; ``on_block`` is told the bytes read so far."""
    digest, done = sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if on_block:
                on_block(done)
    return digest.hexdigest()


def tree_sha256(path: Path) -> str:
    """Hash of a file, or of all files below a folder with their relative names."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
    return canonical_sha256([[str(p.relative_to(path)), file_sha256(p)] for p in files])


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
