"""MedMCQA (Pal, Umapathi, Sankarasubbu 2022): entrance-examination questions, four options."""

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

_OPTIONS = ("opa", "opb", "opc", "opd")
_BASES = (0, 1)


class MedMCQA(Loader):
    """JSON lines (despite the suffix ``.json``), a JSON list, or the Hub's columns.

    ``cop`` counts from 1 in the original files and from 0 on the Hub. A file with a 0 counts
    from 0, any other from 1; ``options: {cop_base: 0}`` or ``1`` overrules that, unless it fits
    none of the file's outer values and the other base fits them all. The explanation often begins
    with the right letter, so it goes into ``reference``, never into a prompt.
    """

    name = "medmcqa"
    hub = HubSource("openlifescienceai/medmcqa")
    signature = frozenset({"cop", *_OPTIONS})
    settings = frozenset({"cop_base"})

    def select(self, rows: list[Row]) -> list[Row]:
        """Find what ``cop`` counts from in each file; the rows stay as they are."""
        self._unlabelled: set[str] = set()
        self._bases: dict[str, int] = {}
        for file, found in by_file(rows).items():
            values = [row.value.get("cop") for row in found if isinstance(row.value, dict)]
            if all(value in (None, -1) for value in values) and _is_test(found):
                self._unlabelled.add(file)
            self._bases[file] = self._base(file, {_number(v) for v in values if v != -1})
        return rows

    def parse(self, row: Row) -> Question:
        """One question; ``group`` is the normalised question, as some occur twice."""
        value = fields.mapping(row.value)
        question = fields.required(value, "question")
        options = tuple(fields.required(value, name) for name in _OPTIONS)
        return Question(
            id=f"medmcqa/{fields.optional(value, 'id') or f'{row.stem}/{row.position}'}",
            dataset="medmcqa",
            split=row.split or "train",
            task="mcq",
            question=question,
            options=options,
            answer_index=self._answer(row, value),
            reference=fields.optional(value, "exp"),
            meta=fields.meta(
                subject=fields.optional(value, "subject_name"),
                topic=fields.optional(value, "topic_name"),
                question_type=fields.optional(value, "choice_type"),
                source=row.stem,
                group=text_group(question),
                duplicate_options=fields.duplicates_note(options),
            ),
        )

    def _answer(self, row: Row, value: Any) -> int | None:
        if row.file in self._unlabelled:
            return None  # the official test file and the Hub's test split hide the answers
        number, base = _number(value.get("cop")), self._bases[row.file]
        if number is None or not base <= number < base + len(_OPTIONS):
            reason = f"'cop' must be {base} to {base + 3} in this file, not {value.get('cop')!r}"
            raise RowError(reason)
        return number - base

    def _forced(self, file: str, values: set[int], base: int) -> int:
        """``base``, unless it is plainly the other one: every label would be shifted by one."""
        other = 1 - base
        if not _fits(values, base) and _fits(values, other):
            fix = f"set it to {other}, or leave it out"
            problem = f"'cop' counts from {other} in this file"
            key = "dataset.options.cop_base"
            raise DataError(problem, file=file, key=key, value=base, fix=fix)
        return base

    def _base(self, file: str, values: set[int | None]) -> int:
        forced = self.config.options.get("cop_base")
        if forced is not None:
            if forced not in _BASES or isinstance(forced, bool):
                fix = "0 on the Hub, 1 in the original files"
                raise DataError(
                    "unknown base of 'cop'", key="dataset.options.cop_base", value=forced, fix=fix
                )
            return self._forced(file, {v for v in values if v is not None}, int(forced))
        if {0, 4} <= values:
            fix = "set dataset.options.cop_base to 0 or 1; the rows outside it are quarantined"
            raise DataError("'cop' holds both 0 and 4, so its base is unclear", file=file, fix=fix)
        from_hub = self.hub is not None and file.startswith(f"{self.hub.id}:")
        return 0 if 0 in values or from_hub else 1


def _fits(values: set[int], base: int) -> bool:
    return values <= set(range(base, base + len(_OPTIONS)))


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _is_test(rows: list[Row]) -> bool:
    return rows[0].split == "test"
