"""Medical Meadow (Han et al. 2023): instruction data of medAlpaca."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from blender_med.data import fields
from blender_med.data.files import RowError
from blender_med.data.hub import HubSource
from blender_med.data.loader import Loader
from blender_med.data.rows import Row
from blender_med.data.text import text_group, tidy
from blender_med.records import Question

_OPTIONS = re.compile(r"\{\s*['\"]A['\"]\s*:")
_LETTER = re.compile(r"\s*([A-Z])\s*[:.)]\s*(.*)", re.DOTALL)
_MCQ_INSTRUCTION = "option in the bracket"
_REFERENCE_TAG = re.compile(
    r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref>|<ref\s*https?://[^\s<>]*", re.DOTALL | re.IGNORECASE
)
_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)
_WIKI_TAG = re.compile(
    r"</?(?:nowiki|ref|noinclude|center|small|span|div|img|figure|blockquote)\b[^<>]*>",
    re.IGNORECASE,
)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_LONGEST_OPTIONS = 20_000


class MedicalMeadow(Loader):
    """JSON list or lines of instruction, input, output, or the Hub's columns.

    Rows of ``medical_meadow_medqa`` hold their options in braces at the end of the input and
    become ``mcq``; all others (wikidoc, flash cards, ...) become ``long``.
    """

    name = "medical_meadow"
    hub = HubSource("medalpaca/medical_meadow_medqa")
    signature = frozenset({"instruction", "input", "output"})

    def recognises(self, value: Any) -> bool:
        """Rows with candidates belong to MixInstruct, whose other keys are the same."""
        return super().recognises(value) and "candidates" not in value

    def parse(self, row: Row) -> Question:
        """One question; ``group`` is the normalised question, as many are repeated."""
        value = fields.mapping(row.value)
        instruction = fields.optional(value, "instruction") or ""
        text, answer = fields.required(value, "input"), fields.required(value, "output")
        if _MCQ_INSTRUCTION in instruction or _choices_start(text) is not None:
            return _mcq(row, text, answer)
        question = tidy(without_markup(text))
        reference = tidy(without_markup(answer))
        if not question or not reference:
            raise RowError("nothing but markup in 'input' or 'output'")
        return Question(
            id=f"medical_meadow/{row.stem}/{row.position}",
            dataset="medical_meadow",
            split=row.split or "train",
            task="long",
            question=question,
            reference=reference,
            meta=fields.meta(source=row.stem, instruction=instruction, group=text_group(question)),
        )


def without_markup(text: str) -> str:
    """Text without wiki markup: references, ``<br>``, ``<nowiki>``, ``[[link|text]]``.

    Nothing else in angle brackets is touched.
    """
    text = _BREAK_TAG.sub("\n", _REFERENCE_TAG.sub("", text))
    return _LINK.sub(r"\1", _WIKI_TAG.sub("", text))


def _choices_start(text: str) -> int | None:
    starts = [match.start() for match in _OPTIONS.finditer(text)]
    return starts[-1] if starts and "}" in text[starts[-1] :] else None


def _mcq(row: Row, text: str, answer: str) -> Question:
    start = _choices_start(text)
    if start is None:
        raise RowError("'input' has no options in braces at its end")
    choices = tuple(fields.options(_literal(text[start : text.rindex("}") + 1])).values())
    question = re.sub(r"^\s*Q:\s*", "", text[:start]).strip()
    if not question:
        raise RowError("'input' has options, but no question")
    return Question(
        id=f"medical_meadow/{row.stem}/{row.position}",
        dataset="medical_meadow",
        split=row.split or "train",
        task="mcq",
        question=question,
        options=choices,
        answer_index=_answer(answer, choices),
        meta=fields.meta(
            source=row.stem,
            group=text_group(question),
            duplicate_options=fields.duplicates_note(choices),
        ),
    )


def _literal(text: str) -> Mapping[str, Any]:
    if len(text) > _LONGEST_OPTIONS:
        raise RowError("the options in braces are too long")
    try:
        return fields.mapping(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise RowError("the options in braces cannot be read") from error


def _answer(answer: str, choices: tuple[str, ...]) -> int:
    match = _LETTER.fullmatch(answer)
    if match is None:
        return fields.answer_index(answer, choices)
    index = fields.LETTERS.index(match[1])
    if index >= len(choices) or match[2].strip() != choices[index].strip():
        raise RowError(f"the answer {answer[:60]!r} is not the text of its option")
    return index
