"""Files of a data set: one file, a folder, or a zip, read without extracting anything."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blender_med.errors import DataError

# A zip bomb unpacks to petabytes; the largest real file here is a few hundred megabytes.
MAX_FILE_BYTES = 1 << 30
MAX_ZIP_BYTES = 8 << 30
# What damaged archives raise, depending on where they are damaged.
_UNREADABLE = (
    OSError, EOFError, ValueError, OverflowError, NotImplementedError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
_HUB_FILES = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "dev": ("dev", "development", "val", "valid", "validation"),
    "test": ("test", "testing"),
}


class RowError(Exception):
    """Why a row or file cannot be used; becomes the reason of a quarantined row."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        name: The path as shown to the user; ``archive.zip!entry`` inside a zip.
        path: Path within the folder or zip; its parents and stem go into ids.
        opener: Reads the bytes; only valid until the next file is asked for.
    """

    name: str
    path: PurePosixPath
    opener: Callable[[], bytes]

    @property
    def stem(self) -> str:
        """File name without its suffixes ``.gz`` and the one before."""
        return self.path.with_suffix("").stem if self.suffix == ".gz" else self.path.stem

    @property
    def suffix(self) -> str:
        """Last suffix in lower case."""
        return self.path.suffix.lower()

    def read(self) -> bytes:
        """Content, with ``.gz`` unpacked.

        Raises:
            RowError: It cannot be read or unpacks to more than a gigabyte.
        """
        try:
            data = self.opener()
            return _gunzipped(data) if self.suffix == ".gz" else data
        except _UNREADABLE as error:
            raise RowError(f"the file cannot be read: {error}") from error
        except RuntimeError as error:  # zipfile's way of saying that an entry is encrypted
            raise RowError(f"the zip entry cannot be opened: {error}") from error


def source_files(path: Path, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    """Files of ``path`` in the order of their names; zips inside a folder are looked into.

    Each file must be read before the next one is asked for. ``suffixes`` filters folders and
    zips; a single file is taken whatever its name.

    Raises:
        DataError: ``path`` does not exist, or is a zip that is not one.
    """
    if path.is_dir():
        yield from _folder_files(path, suffixes)
    elif path.suffix.lower() == ".zip":
        if not _is_zip(path):
            raise DataError("not a zip file, or a damaged one", file=path, fix="download it again")
        yield from _zip_files(path, suffixes)
    elif path.is_file():
        yield _local(path, PurePosixPath(path.absolute().parent.name, path.name))
    else:
        fix = "give a local file, folder or zip, or a Hub id of the form org/name"
        raise DataError("no such file or folder", file=path, fix=fix)


def split_of(stem: str, default: str) -> str:
    """Split that a file name such as ``CDR_TrainingSet`` or ``val-00000`` names."""
    named = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", stem)}
    for split, spellings in _SPLIT_WORDS.items():
        if named.intersection(spellings):
            return split
    return default


def _local(path: Path, inner: PurePosixPath) -> SourceFile:
    def read() -> bytes:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RowError(f"larger than {MAX_FILE_BYTES} bytes; split the file")
        return path.read_bytes()

    return SourceFile(str(path), inner, read)


def _folder_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inner = PurePosixPath(folder.absolute().name, *path.relative_to(folder).parts)
        if not _wanted(PurePosixPath(*inner.parts[1:]), (*suffixes, ".zip")):
            continue
        if path.suffix.lower() != ".zip":
            yield _local(path, inner)
        elif _is_zip(path):
            yield from _zip_files(path, suffixes)
        else:
            yield SourceFile(str(path), inner, _refusal("not a zip file, or a damaged one"))


def _is_zip(path: Path) -> bool:
    """Whether the table of contents can be read; ``zipfile.is_zipfile`` looks at its mark only."""
    try:
        with zipfile.ZipFile(path):
            return True
    except _UNREADABLE:
        return False


def _zip_files(path: Path, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    unpacked = 0
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda e: e.filename):
            inner = PurePosixPath(entry.filename)
            if entry.is_dir() or not _wanted(inner, suffixes):
                continue
            unpacked += entry.file_size
            reader = _entry_reader(archive, entry, unpacked)
            with_folder = inner if len(inner.parts) > 1 else PurePosixPath(path.stem, inner)
            yield SourceFile(f"{path}!{entry.filename}", with_folder, reader)


def _entry_reader(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, unpacked: int
) -> Callable[[], bytes]:
    inner = PurePosixPath(entry.filename)
    if inner.is_absolute() or ".." in inner.parts or "\\" in entry.filename:
        return _refusal("the zip entry's name leaves the archive")
    if entry.file_size > MAX_FILE_BYTES or unpacked > MAX_ZIP_BYTES:
        return _refusal("the zip unpacks to too many bytes")

    def read() -> bytes:
        with archive.open(entry) as stream:
            # The header may understate the size, so the bound is on what is really read.
            return _bounded(stream.read(MAX_FILE_BYTES + 1))

    return read


def _refusal(reason: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise RowError(reason)

    return read


def _gunzipped(data: bytes) -> bytes:
    import io

    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        return _bounded(stream.read(MAX_FILE_BYTES + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise RowError(f"unpacks to more than {MAX_FILE_BYTES} bytes")
    return data


def _wanted(inner: PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    if any(part.startswith((".", "__MACOSX")) and part[:2] != ".." for part in inner.parts):
        return False
    return inner.name not in _HUB_FILES and inner.name.lower().endswith(suffixes)
