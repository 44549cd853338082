"""Atomic files and content hashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
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
        with explained_writes(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def explained_writes(path: Path) -> Iterator[None]:
    """Turn what the system says against a change of ``path`` into a StoreError."""
    try:
        yield
    except OSError as error:
        fix = "free disk space or make the folder writable, then run the same command again"
        raise StoreError(f"cannot write: {error.strerror or error}", file=path, fix=fix) from error


def remove_files(paths: Iterable[Path]) -> None:
    """Remove the files that are there.

    Raises:
        StoreError: The folder is not writable.
    """
    for path in paths:
        with explained_writes(path):
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed :func:`atomic_path` has left in ``folder``."""
    remove_files(folder.glob(".*.tmp"))


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
    return f"'{clean}" if _is_guarded(clean) else clean


def plain_text(cell: str) -> str:
    """The text that :func:`spreadsheet_text` has guarded by an apostrophe."""
    return cell[1:] if cell.startswith("'") and _is_guarded(cell[1:]) else cell


def _is_guarded(text: str) -> bool:
    """Whether a text gets an apostrophe: a formula, or one that already looks guarded."""
    return text.lstrip("'").startswith(_FORMULA_STARTS)


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
