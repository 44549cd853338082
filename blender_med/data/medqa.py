"""MedQA-USMLE (Jin et al. 2020): licensing-examination vignettes with 4 or 5 options."""

from __future__ import annotations

from typing import Any

from blender_med.data import fields
from blender_med.data.files import RowError
from blender_med.data.hub import HubSource
from blender_med.data.loader import Loader, by_file
from blender_med.data.rows import Row
from blender_med.data.text import text_group
from blender_med.errors import DataError
from blender_med.records import Question

_DEFAULT_OPTIONS = 4


class MedQA(Loader):
    """JSON lines with 4 or 5 options, or the Hub's columns.

    The same question stands in both sets with other letters, so a load takes one of them: a
    folder that holds both gives 4 options, or as many as ``options: {n_options: 5}`` says.
    """

    name = "medqa"
    hub = HubSource("GBaker/MedQA-USMLE-4-options")
    suffixes = (".jsonl", ".json", ".parquet")
    signature = frozenset({"answer_idx", "meta_info", "metamap_phrases"})
    settings = frozenset({"n_options"})

    def select(self, rows: list[Row]) -> list[Row]:
        """Rows of the files with the number of options asked for.

        Raises:
            DataError: No file has that number of options.
        """
        files = by_file(rows)
        counts = {file: _n_options(found) for file, found in files.items()}
        several = len({count for count in counts.values() if count}) > 1
        wanted = self.config.options.get("n_options", _DEFAULT_OPTIONS if several else None)
        if wanted is None:
            return rows
        if wanted not in counts.values():
            fix = f"choose one of: {', '.join(sorted({str(c) for c in counts.values() if c}))}"
            path = self.config.path
            raise DataError(
                "no file has that many options",
                file=path,
                key="dataset.options.n_options",
                value=wanted,
                fix=fix,
            )
        return [row for row in rows if counts[row.file] in (wanted, None)]

    def parse(self, row: Row) -> Question:
        """One question; ``answer_idx`` and ``answer`` must agree."""
        value = fields.mapping(row.value)
        question = fields.required(value, "question", "sent1")
        choices = tuple(fields.options(value.get("options")).values())
        return Question(
            id=f"medqa/{row.stem}/{row.position}",
            dataset="medqa",
            split=row.split or "train",
            task="mcq",
            question=question,
            options=choices,
            answer_index=_answer(value, choices),
            meta=fields.meta(
                question_type=fields.optional(value, "meta_info"),
                source=row.stem,
                group=text_group(question),
                n_options=str(len(choices)),
                duplicate_options=fields.duplicates_note(choices),
            ),
        )


def _answer(value: Any, choices: tuple[str, ...]) -> int:
    letter = fields.required(value, "answer_idx").strip()
    if len(letter) != 1 or letter not in fields.LETTERS[: len(choices)]:
        raise RowError(f"'answer_idx' is {letter!r}, which is no option")
    index = fields.LETTERS.index(letter)
    text = fields.optional(value, "answer")
    if text is not None and text != choices[index]:
        raise RowError(f"'answer' is not the text of option {letter}")
    return index


def _n_options(rows: list[Row]) -> int | None:
    for row in rows:
        try:
            return len(fields.options(fields.mapping(row.value).get("options")))
        except RowError:
            continue
    return None
