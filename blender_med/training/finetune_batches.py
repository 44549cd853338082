"""Rows that an expert is tuned on: the prompt that inference would send, then the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from blender_med.data.tuning import TuningExample
from blender_med.errors import DataError
from blender_med.experts.rendering import Renderer
from blender_med.training.batches import Key
from blender_med.training.expert_config import FinetuneJob
from blender_med.training.fuser_batches import IGNORED, padded

Ids = list[int]


class Row(NamedTuple):
    """Tokens of a prompt and of the answer behind it; ``text`` is the whole answer."""

    prompt: Ids
    answer: Ids
    text: str = ""

    @property
    def ids(self) -> Ids:
        """All tokens."""
        return self.prompt + self.answer

    @property
    def labels(self) -> Ids:
        """Labels of :attr:`ids`: the answer alone has a part in the loss."""
        return [IGNORED] * len(self.prompt) + self.answer

    @property
    def length(self) -> int:
        """Number of all tokens."""
        return len(self.prompt) + len(self.answer)


def tuning_rows(
    renderer: Renderer, job: FinetuneJob, examples: Sequence[TuningExample]
) -> list[Row]:
    """Rows of the examples that fit into ``max_length``.

    An answer is cut on the right to ``answer_length`` tokens and then has no end; a context is cut
    in its middle. Where not even the question fits, the example is left out.

    Raises:
        DataError: None fits.
    """
    rows = [row for example in examples if (row := _row(renderer, job, example)) is not None]
    if examples and not rows:
        fix = "raise max_length, or lower answer_length"
        raise DataError("no question fits into a row", key="max_length", value=job.max_length,
                        fix=fix)  # fmt: skip
    return rows


def _row(renderer: Renderer, job: FinetuneJob, example: TuningExample) -> Row | None:
    question = example.question
    if question.task == "mcq" and job.protocol == "lm_eval":
        row = Row(*renderer.encode_right_choice(question), example.answer)
        return row if row.length <= job.max_length else None
    prompt = renderer.render(question, job.answer_length)
    if not prompt.fits:
        return None
    answer = renderer.encode_target(question, prompt)[: job.answer_length]
    return Row(renderer.encode(prompt), answer, example.answer)


class TuningBatches:
    """Turns rows into the arguments of a model's forward pass.

    Args:
        pad_id: Token of the padding.
        packed_length: Most tokens of a packed row; None: rows are padded, not packed.
    """

    def __init__(self, pad_id: int, packed_length: int | None) -> None:
        self._pad_id, self._packed_length = pad_id, packed_length

    def __call__(self, items: Sequence[tuple[Key, Row]]) -> dict[str, torch.Tensor]:
        """Tensors for ``forward(**batch)``, [rows, longest], padded on the right."""
        rows = [row for _, row in items]
        return self.batch(rows)

    def batch(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The same for rows alone."""
        if self._packed_length is not None:
            return self._packed(packs(rows, self._packed_length))
        return {
            "input_ids": padded([row.ids for row in rows], self._pad_id),
            "attention_mask": padded([[1] * row.length for row in rows], 0),
            "labels": padded([row.labels for row in rows], IGNORED),
        }

    def _packed(self, packed: Sequence[Sequence[Row]]) -> dict[str, torch.Tensor]:
        """Rows end to end. Positions start anew with each, which keeps them apart in attention.

        The first label of a row is none, so nothing is predicted from the row before it. Padding
        counts on from position 0 as a row of its own.
        """
        lengths = [sum(row.length for row in pack) for pack in packed]
        rest = [range(max(lengths) - length) for length in lengths]
        ids = [[token for row in pack for token in row.ids] for pack in packed]
        labels = [[label for row in pack for label in row.labels] for pack in packed]
        positions = [
            [place for row in pack for place in range(row.length)] + list(own)
            for pack, own in zip(packed, rest, strict=True)
        ]
        return {
            "input_ids": padded(ids, self._pad_id),
            "position_ids": torch.tensor(positions),
            "labels": padded(labels, IGNORED),
        }


def packs(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """Rows sorted into as few packs of at most ``length`` tokens as first fit finds.

    Longest first; a row that is longer by itself has a pack of its own.
    """
    made: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        place = next((i for i, left in enumerate(room) if left >= row.length), len(made))
        if place == len(made):
            made.append([])
            room.append(length)
        made[place].append(row)
        room[place] -= row.length
    return made
