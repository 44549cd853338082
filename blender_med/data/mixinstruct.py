"""MixInstruct (Jiang, Ren, Lin 2023): instructions with scored candidates of many models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blender_med.data import fields
from blender_med.data.config import DatasetConfig
from blender_med.data.files import RowError
from blender_med.data.graded import GradedCandidates
from blender_med.data.hub import HubSource
from blender_med.data.loader import Loader
from blender_med.data.loading import unique_ids
from blender_med.data.quarantine import QuarantinedRow, QuarantinedRows, shortened
from blender_med.data.rows import Row
from blender_med.data.text import text_group
from blender_med.records import Candidate, Question, Score


class MixInstruct(Loader):
    """JSON list or lines of id, instruction, input, output, candidates, or the Hub's columns.

    The instruction is the question, the input its context, the output the reference.
    """

    name = "mixinstruct"
    hub = HubSource("llm-blender/mix-instruct")
    signature = frozenset({"candidates"})

    def parse(self, row: Row) -> Question:
        """One question. An empty instruction with an input makes the input the question."""
        value = fields.mapping(row.value)
        instruction, text = fields.optional(value, "instruction"), fields.optional(value, "input")
        question = instruction or text
        if question is None:
            raise RowError("'instruction' and 'input' are both empty or missing")
        return Question(
            id=f"mixinstruct/{fields.optional(value, 'id') or f'{row.stem}/{row.position}'}",
            dataset="mixinstruct",
            split=row.split or "train",
            task="long",
            question=question,
            context=text if instruction else None,
            reference=fields.required(value, "output"),
            meta=fields.meta(source=row.stem, group=text_group(f"{instruction}\n{text}")),
        )


def load_candidates(path: str | Path) -> GradedCandidates:
    """Candidates of MixInstruct and their stored scores.

    Args:
        path: Local file, folder or zip, or a Hub id.

    Returns:
        Candidates (``expert`` is the model, ``sample`` counts its candidates to one question)
        and scores (metric as the file names it, higher is better) of the questions that
        ``load_questions("mixinstruct", path)`` gives; malformed candidates, scores and rows
        are quarantined.

    Raises:
        DataError: The path is missing, empty or of another type.
    """
    loader = MixInstruct(DatasetConfig(type="mixinstruct", path=str(path)))
    rows = list(loader.rows())
    loader.check(rows)
    graded = GradedCandidates([], [], QuarantinedRows())
    kept: list[tuple[Row, Question]] = []
    for row in rows:
        item = loader.item(row)
        if isinstance(item, Question):
            kept.append((row, item))
        elif isinstance(item, QuarantinedRow):
            graded.quarantined.append(item)
    for (row, _), question in zip(kept, unique_ids(q for _, q in kept), strict=True):
        _add(graded, row, question.id)
    return graded


def _add(graded: GradedCandidates, row: Row, question_id: str) -> None:
    found = row.value.get("candidates")
    if not isinstance(found, list):
        graded.quarantined.append(_refused(row, "'candidates' must be a list", found))
        return
    samples: Counter[str] = Counter()
    for value in found:
        try:
            expert = fields.required(fields.mapping(value), "model")
            text = fields.plain(value.get("text"), "text") or ""
        except RowError as error:
            graded.quarantined.append(_refused(row, str(error), value))
            continue
        candidate = Candidate(question_id, expert, samples[expert], text)
        samples[expert] += 1
        graded.candidates.append(candidate)
        graded.scores.extend(_scores(graded, row, candidate, value.get("scores")))


def _scores(
    graded: GradedCandidates, row: Row, candidate: Candidate, scores: Any
) -> Iterator[Score]:
    for metric, value in (scores if isinstance(scores, Mapping) else {}).items():
        if not _is_score(value):
            reason = f"score {metric!r} of {candidate.key} is not a finite number"
            graded.quarantined.append(_refused(row, reason, value))
        else:
            yield Score(
                candidate.question_id, candidate.expert, candidate.sample, str(metric), float(value)
            )


def _is_score(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def _refused(row: Row, reason: str, content: Any) -> QuarantinedRow:
    return QuarantinedRow(row.file, row.position, reason, shortened(content))
