"""A user's rows with what was added to them, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from blender_med.data.text import storable
from blender_med.data.user_file import FORMATS, Format, UserFile
from blender_med.store.files import atomic_path, spreadsheet_text

Rows = Sequence[Mapping[str, Any]]


def write_user_file(path: Path, file: UserFile, added: Rows) -> None:
    """Write the rows to a file, atomically; its suffix decides the format, else the input's.

    Raises:
        StoreError: The disk is full or the folder is not writable.
    """
    format = FORMATS.get(path.suffix.lower(), file.format)
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as output,
    ):
        write_rows(output, format, file, added)


def write_rows(output: TextIO, format: Format, file: UserFile, added: Rows) -> None:
    """Write the rows, new cells behind the user's own.

    The user's cells stay as they are. New CSV cells that a spreadsheet would run as a formula
    start with an apostrophe; lists are written as JSON.

    Args:
        output: Open for text, without translation of line ends.
        format: Of the output.
        file: The user's rows.
        added: New cells of each row.
    """
    rows = zip(file.rows, added, strict=True)
    if format == "jsonl":
        for row, new in rows:
            line = json.dumps({**row, **new}, ensure_ascii=False, default=str)
            if storable(line) != line:  # what UTF-8 cannot hold stays escaped
                line = json.dumps({**row, **new}, default=str)
            output.write(line + "\n")
        return
    names = list(dict.fromkeys(name for new in added for name in new))
    writer = csv.writer(output)
    writer.writerow([*file.columns, *names])
    for row, new in rows:
        own = [_cell(row.get(name)) for name in file.columns]
        writer.writerow([*own, *(_new_cell(new.get(name)) for name in names)])


def _new_cell(value: Any) -> str:
    return spreadsheet_text(value) if isinstance(value, str) else _cell(value)


def _cell(value: Any) -> str:
    """A cell as text, without what UTF-8 cannot hold."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return storable(text)
