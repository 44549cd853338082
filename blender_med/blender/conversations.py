"""Conversations as texts that a ranker compares, laid out as in llm-blender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from blender_med.errors import DataError

Conversation = Sequence[Mapping[str, str]]

_ROLES = ("USER", "ASSISTANT")
# Word for word, typing error included: the ranker's verdict depends on it.
_INSTRUCTION = (
    "Finish the following coversation in each i-th turn by filling in <Response i> with your"
    " response."
)


class ConversationPair(NamedTuple):
    """What two conversations have in common, and the assistant's turns of each."""

    source: str
    first: str
    second: str


def conversation_pairs(
    first: Sequence[Conversation], second: Sequence[Conversation]
) -> list[ConversationPair]:
    """Texts of conversations with the same user turns.

    Args:
        first: Each a list of turns ``{"role": ..., "content": text}``; ``USER`` and ``ASSISTANT``
            in turn, the user first.
        second: As many conversations, of as many turns each.

    Raises:
        DataError: A conversation is not of this form, or the user turns differ.
    """
    if len(first) != len(second):
        problem = f"{len(first)} conversations against {len(second)}"
        raise DataError(problem, fix="give one conversation of each side")
    return [_pair(row, *pair) for row, pair in enumerate(zip(first, second, strict=True), 1)]


def _pair(row: int, first: Conversation, second: Conversation) -> ConversationPair:
    for conversation in (first, second):
        _check_turns(row, conversation)
    asked, also_asked = ([turn["content"] for turn in c[::2]] for c in (first, second))
    if asked != also_asked:
        fix = "compare answers to the same user turns"
        raise DataError("the user turns of the two conversations differ", row=row, fix=fix)
    slots = (f"USER: {text}\nAssistant: <Response {i}>" for i, text in enumerate(asked, 1))
    return ConversationPair(_INSTRUCTION + "\n".join(slots), _answers(first), _answers(second))


def _answers(conversation: Conversation) -> str:
    answers = (turn["content"] for turn in conversation[1::2])
    return "\n".join(f"<Response {i}>: {text}" for i, text in enumerate(answers, 1))


def _check_turns(row: int, conversation: Conversation) -> None:
    if not conversation or len(conversation) % 2:
        fix = "end each conversation with the assistant's turn"
        problem = "a conversation has an odd number of turns, or none"
        raise DataError(problem, row=row, value=len(conversation), fix=fix)
    for position, turn in enumerate(conversation):
        role, content = turn.get("role"), turn.get("content")
        if role != _ROLES[position % 2] or not isinstance(content, str):
            fix = "let USER and ASSISTANT take turns, each with a text as content"
            raise DataError(f"turn {position + 1} is malformed", row=row, value=dict(turn), fix=fix)
