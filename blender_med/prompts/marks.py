"""Text of a question is data: control marks in it must not control the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from blender_med.records import Question

# Marks that are plain text to a tokenizer, yet control the model.
_TEXT_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

# What the chat templates in use write, for a model whose tokenizer is not here.
SERVER_MARKS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[/?INST\]|<</?SYS>>"
)


def mark_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """Pattern of a tokenizer's special tokens and of the instruction marks, longest first."""
    marks = {mark for mark in special_tokens if mark.strip()} | set(_TEXT_MARKS)
    return re.compile("|".join(map(re.escape, sorted(marks, key=lambda m: (-len(m), m)))))


def neutral_text(text: str, marks: re.Pattern[str]) -> str:
    """``text`` with a blank after the first character of each mark, so that it is one no more.

    Lone surrogates, which no tokenizer takes, become question marks.
    """
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return marks.sub(lambda match: match[0][0] + " " + match[0][1:], valid)


def neutral_question(question: Question, marks: re.Pattern[str]) -> Question:
    """The question with ``neutral_text`` applied to all that a prompt shows of it."""
    options = question.options
    return replace(
        question,
        question=neutral_text(question.question, marks),
        context=None if question.context is None else neutral_text(question.context, marks),
        options=None if options is None else tuple(neutral_text(o, marks) for o in options),
    )
