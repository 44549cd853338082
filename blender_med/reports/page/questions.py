"""Data of the browser of single questions: an index of all, and pages of details.

Each part is JSON, compressed and in base64, so that no text of a model stands in the file as
markup, and 2,000 questions stay small.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from blender_med.fusers.support import SentenceSupport
from blender_med.records import Ranking
from blender_med.stages.comparison import AnswerCell, AnswerRow, Block, CandidateCell
from blender_med.stages.methods import BEST_SINGLE

PAGE_SIZE = 100
SHOWN_SPLITS = ("dev", "test")
_PREVIEW = 120
_SURROGATES = re.compile("[\ud800-\udfff]")
_DIGITS = 4

RankingKey = tuple[str, str]


@dataclass(frozen=True)
class Packed:
    """The parts, packed: ``index``, and the details of ``PAGE_SIZE`` questions each."""

    index: str
    pages: list[str]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return len(self.index) + sum(map(len, self.pages))


@dataclass
class _Index:
    """Columns over all questions."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    oracle: list[float | None] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    slices: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: AnswerRow, block: int) -> None:
        self.ids.append(row.question_id)
        self.texts.append(row.question[:_PREVIEW])
        self.block.append(block)
        self.oracle.append(_best(row))
        _append(
            self.values, {a.method: _rounded(a.value) for a in row.answers}, len(self.ids), None
        )
        _append(self.slices, row.slices, len(self.ids), "")

    def tree(self, blocks: Sequence[Block], rivals: Mapping[str, str]) -> dict[str, Any]:
        return {
            "size": PAGE_SIZE,
            "rivals": {name: rivals.get(name, BEST_SINGLE) for name in self.values},
            "blocks": [[b.dataset, b.task, b.protocol, b.split] for b in blocks],
            "ids": self.ids,
            "texts": self.texts,
            "block": self.block,
            "oracle": self.oracle,
            "values": self.values,
            "slices": self.slices,
        }


def pack_questions(
    rows: Iterable[AnswerRow],
    rankings: Mapping[str, Iterable[Ranking]],
    blocks: Sequence[Block],
    rivals: Mapping[str, str],
) -> Packed:
    """Pack the questions of ``blocks``, in order; the texts of one page are held at a time.

    Args:
        rows: Of all questions.
        rankings: Those of each ranker, by its name.
        blocks: What is shown.
        rivals: Method that a method is compared with, where that is not ``best_single``.
    """
    orders = _ranking_cells(rankings)
    numbers = {block: number for number, block in enumerate(blocks)}
    shown = (row for row in rows if row.block in numbers)
    index, pages = _Index(), list[str]()
    while page := list(islice(shown, PAGE_SIZE)):
        for row in page:
            index.add(row, numbers[row.block])
        pages.append(_packed([_details(row, orders) for row in page]))
    return Packed(_packed(index.tree(blocks, rivals)), pages)


def _packed(tree: Any) -> str:
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # UTF-8 cannot hold lone surrogates; they are shown as what Python writes for them.
    text = _SURROGATES.sub(lambda found: rf"\\u{ord(found[0]):04x}", text)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _append(columns: dict[str, list[Any]], cells: Mapping[str, Any], rows: int, empty: Any) -> None:
    """Add one row to columns; a column that is new, or lacks the cell, is filled up."""
    for name in {**columns, **cells}:
        column = columns.setdefault(name, [empty] * (rows - 1))
        column.append(cells.get(name, empty))


def _best(row: AnswerRow) -> float | None:
    primary = "correct" if row.block.task == "mcq" else row.primary
    values = [c.scores[primary] for c in row.candidates if primary in c.scores]
    return _rounded(max(values)) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, _DIGITS)


def _details(row: AnswerRow, orders: Mapping[RankingKey, dict[str, Any]]) -> dict[str, Any]:
    return {
        "question": row.question,
        "context": row.context,
        "options": row.options,
        "gold": row.gold,
        "reference": row.reference,
        "primary": row.primary,
        "candidates": [_candidate(candidate) for candidate in row.candidates],
        "answers": [_answer(answer) for answer in row.answers],
        "rankings": orders.get((row.question_id, row.block.protocol), {}),
    }


def _candidate(cell: CandidateCell) -> dict[str, Any]:
    scores = {name: _rounded(value) for name, value in cell.scores.items()}
    return {
        "key": cell.key,
        "text": cell.text,
        "choice": cell.choice,
        "scores": scores,
    }


def _answer(cell: AnswerCell) -> dict[str, Any]:
    """A method's answer; a checked text comes as sentences with what each rests on."""
    return {
        "method": cell.method,
        "candidate": cell.candidate,
        "choice": cell.choice,
        "text": cell.text,
        "value": _rounded(cell.value),
        "confidence": _rounded(cell.confidence),
        "sentences": [_sentence(sentence) for sentence in cell.sentences],
    }


def _sentence(sentence: SentenceSupport) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "links": [[link.candidate, link.sentence] for link in sentence.links],
        "flags": [[flag.kind, flag.reason, flag.text] for flag in sentence.flags],
    }


def _ranking_cells(
    rankings: Mapping[str, Iterable[Ranking]],
) -> dict[RankingKey, dict[str, Any]]:
    """By question and protocol: ranks and logits of each ranker."""
    found: dict[RankingKey, dict[str, Any]] = {}
    for method, own in rankings.items():
        for ranking in own:
            cell: dict[str, Any] = {"keys": ranking.candidates, "ranks": ranking.ranks}
            if ranking.pairwise_logits is not None:
                cell["logits"] = [[_rounded(v) for v in row] for row in ranking.pairwise_logits]
            found.setdefault((ranking.question_id, ranking.protocol), {})[method] = cell
    return found
