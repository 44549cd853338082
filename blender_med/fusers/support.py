"""What a fused text rests on, as text that is kept with an answer and read again for reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from blender_med.fusers.faithfulness import CheckedSentence

KINDS = ("unsupported", "number", "dose", "drug", "negation")


class SentenceLink(NamedTuple):
    """A candidate sentence that supports; ``sentence`` counts from 1, ``support`` is 0..1."""

    candidate: str
    sentence: int
    support: float


class SentenceFlag(NamedTuple):
    """See ``faithfulness.Flag``."""

    kind: str
    reason: str
    text: str


class SentenceSupport(NamedTuple):
    """A sentence of a fused text, with candidates by their keys."""

    text: str
    links: tuple[SentenceLink, ...]
    flags: tuple[SentenceFlag, ...]


def support_json(sentences: Sequence[CheckedSentence], keys: Sequence[str]) -> str:
    """The checked sentences of one answer.

    Args:
        sentences: From ``check_answers``.
        keys: Of the candidates that the answer was checked against, in their order.
    """
    rows = [
        SentenceSupport(
            sentence.text,
            tuple(
                SentenceLink(keys[link.candidate], link.sentence + 1, round(link.support, 4))
                for link in sentence.links
            ),
            tuple(SentenceFlag(flag.kind, flag.reason, flag.text) for flag in sentence.flags),
        )
        for sentence in sentences
    ]
    return json.dumps(rows, ensure_ascii=False)


def read_support(text: str) -> list[SentenceSupport]:
    """The sentences that :func:`support_json` wrote."""
    return [
        SentenceSupport(
            sentence,
            tuple(SentenceLink(*link) for link in links),
            tuple(SentenceFlag(*flag) for flag in flags),
        )
        for sentence, links, flags in json.loads(text)
    ]
