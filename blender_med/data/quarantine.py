"""What a load returns: the records, and the rows that could not become records."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blender_med.errors import DataError, shorten
from blender_med.records import Passage, Question
from blender_med.store.files import atomic_path, spreadsheet_text

_LONGEST_CONTENT = 500


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that is kept out of the data set.

    Attributes:
        file: File it stands in; ``archive.zip!entry`` inside a zip, ``org/name:split`` on the Hub.
        position: Line, element number from 1, or key within the file; empty for a whole file.
        reason: Why it is refused.
        content: The row itself, shortened.
    """

    file: str
    position: str
    reason: str
    content: str

    def error(self) -> DataError:
        """The row as an error, for strict loading."""
        fix = "correct or remove the row, or load without strict to quarantine it"
        row = self.position or None
        return DataError(self.reason, file=self.file, row=row, value=self.content, fix=fix)


class QuarantinedRows(list[QuarantinedRow]):
    """Refused rows in the order of the files."""

    def reasons(self) -> dict[str, int]:
        """Number of rows for each reason, the most frequent first."""
        return dict(Counter(row.reason for row in self).most_common())

    def write_csv(self, path: str | Path) -> None:
        """Write file, position, reason and content; no cell can run as a spreadsheet formula.

        Raises:
            StoreError: The file cannot be written.
        """
        with (
            atomic_path(Path(path)) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)  # its "\r\n" makes it quote cells with either character
            writer.writerow(["file", "position", "reason", "content"])
            for row in self:
                cells = (row.file, row.position, row.reason, row.content)
                writer.writerow([spreadsheet_text(cell) for cell in cells])


def shortened(content: Any) -> str:
    """A row's content for the quarantine: at most 500 characters, storable as UTF-8."""
    from blender_med.data.text import storable

    # Cut before and after repr: a hostile row may be huge or nested too deeply to print.
    try:
        shown = content if isinstance(content, str) else repr(content)
    except (RecursionError, ValueError):
        shown = f"<{type(content).__name__} that cannot be printed>"
    return shorten(storable(shown[: 2 * _LONGEST_CONTENT]), _LONGEST_CONTENT)


class Questions(list[Question]):
    """Questions of a data set; ``quarantined`` holds the rows that were refused."""

    def __init__(
        self, questions: Iterable[Question] = (), quarantined: Iterable[QuarantinedRow] = ()
    ) -> None:
        super().__init__(questions)
        self.quarantined = QuarantinedRows(quarantined)


class Passages(list[Passage]):
    """Passages of a data set; ``quarantined`` holds the rows that were refused."""

    def __init__(
        self, passages: Iterable[Passage] = (), quarantined: Iterable[QuarantinedRow] = ()
    ) -> None:
        super().__init__(passages)
        self.quarantined = QuarantinedRows(quarantined)
