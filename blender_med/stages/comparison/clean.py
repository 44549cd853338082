"""Which test questions the training questions give nothing away about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from blender_med.data.contamination import Overlap, overlap
from blender_med.records import Question
from blender_med.stages.comparison.rows import ContaminationRow
from blender_med.stages.methods.board import Board, Ints

# Splits that methods learned from, or were chosen on, before they met a split.
_EARLIER = {"dev": ("train",), "test": ("train", "dev")}


@dataclass
class Contamination:
    """Overlaps between the splits of data sets; each split is compared once."""

    _found: dict[tuple[str, str, str], tuple[Overlap, ...] | None] = field(default_factory=dict)

    def clean(self, board: Board, split: str) -> Ints | None:
        """Indices of a split's questions without an overlap; None where no split is earlier.

        An overlap is an equal or nearly equal question or reference answer, see
        :func:`blender_med.data.contamination.overlap`.
        """
        overlaps = self._overlaps(board, split)
        if overlaps is None:
            return None
        seen = {row.a_id for row in overlaps}
        indices = board.split_indices(split)
        return indices[np.array([board.questions[i].id not in seen for i in indices], dtype=bool)]

    def rows(self) -> list[ContaminationRow]:
        """Every overlap met so far."""
        return [
            ContaminationRow(dataset, split, row)
            for (dataset, _, split), overlaps in self._found.items()
            for row in overlaps or ()
        ]

    def _overlaps(self, board: Board, split: str) -> tuple[Overlap, ...] | None:
        key = (board.dataset, board.task, split)
        if key not in self._found:
            earlier = _of_splits(board.questions, _EARLIER.get(split, ()))
            own = _of_splits(board.questions, (split,))
            self._found[key] = overlap(own, earlier).rows if earlier else None
        return self._found[key]


def _of_splits(questions: Sequence[Question], splits: Sequence[str]) -> list[Question]:
    return [question for question in questions if question.split in splits]
