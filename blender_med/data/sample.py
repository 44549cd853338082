"""The sample set of this project: long-form and multiple-choice questions of many specialties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blender_med.data import fields
from blender_med.data.config import DatasetConfig
from blender_med.data.files import RowError
from blender_med.data.loader import Loader
from blender_med.data.rows import Row
from blender_med.errors import DataError
from blender_med.recipes_folder import shipped_root
from blender_med.records import Question


class Sample(Loader):
    """JSON lines with ``task`` ``long`` or ``mcq``; without a path, the project's own set.

    ``group`` is the topic, so that a long-form and a multiple-choice question about the same
    thing fall into the same split. The explanation of a multiple-choice question is its
    ``reference``.
    """

    name = "sample"
    suffixes = (".jsonl",)
    signature = frozenset({"specialty", "source_note"})
    is_shipped = True

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        if config.path is None:
            self.config = config.model_copy(update={"path": str(sample_folder())})

    def parse(self, row: Row) -> Question:
        """One question of either task."""
        value = fields.mapping(row.value)
        task = fields.required(value, "task")
        if task not in ("long", "mcq"):
            raise RowError(f"'task' is {task[:60]!r}, not long or mcq")
        choices = tuple(fields.options(value.get("options")).values()) if task == "mcq" else None
        topic = fields.required(value, "topic")
        return Question(
            id=f"sample/{fields.required(value, 'id')}",
            dataset="sample",
            split=row.split or "train",
            task="mcq" if choices else "long",
            question=fields.required(value, "question"),
            options=choices,
            answer_index=_answer(value, choices) if choices else None,
            reference=fields.required(value, "explanation" if choices else "reference"),
            meta=fields.meta(
                subject=fields.required(value, "specialty"),
                question_type=fields.optional(value, "question_type"),
                topic=topic,
                group=topic.lower(),
                source_note=fields.optional(value, "source_note"),
            ),
        )


def sample_folder() -> Path:
    """Folder of the sample set, in an installed package or in the checkout around it.

    Raises:
        DataError: It is not there.
    """
    folder = shipped_root() / "data" / "sample"
    if not folder.is_dir():
        fix = "install blender-med again, or run from a full checkout"
        raise DataError("the sample set is missing", file=folder, fix=fix)
    return folder


def _answer(value: Any, choices: tuple[str, ...]) -> int:
    index = value.get("answer_index")
    if not isinstance(index, int):
        raise RowError("'answer_index' must be a whole number counted from 0")
    return fields.answer_index(index, choices)
