"""Sentences, clauses and content words of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from blender_med.fusers.claims.lists import without_inline_marks, without_mark


def word_set(text: str) -> frozenset[str]:
    """The words of ``text``, for lists of words in the code."""
    return frozenset(text.split())


# A full stop behind one of these ends no sentence.
_ABBREVIATIONS = word_set("approx dr e.g eg etc fig i.e ie mr mrs ms prof st vs")
_END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[\"'(\[*]*[A-Z0-9])")
_WORD = re.compile(r"[a-zA-Z][\w'\u2019-]*")

STOP_WORDS = word_set(
    """a about above after again all also although am an and another any are as at be became
    because become becomes been before being below between both but by can could did do does doing
    down during each either even every few for from further get gets had has have having he her
    here hers him his how i if in into is it its itself just like made make makes many may me
    might more most much must my of off often on once one only or other others our out over own
    per people person same shall she should since so some such than that the their them then there
    these they this those through to together too two under until up upon us usually very was way
    we were what when where which while who whom whose why will with within would you your"""
)
_IRREGULAR = {
    "taken": "take", "took": "take", "given": "give", "gave": "give", "children": "child",
    "women": "woman", "men": "man", "began": "begin", "begun": "begin", "eaten": "eat",
    "seen": "see", "felt": "feel", "teeth": "tooth", "feet": "foot", "worse": "worsen",
}  # fmt: skip


def sentences(text: str) -> list[str]:
    """Sentences of ``text``; a line break ends one too. Blank text has none.

    Bullets, numbers of lists and names of candidates in front (``Candidate 1:``) are left out.
    """
    found = (
        without_mark(part).strip()
        for line in text.splitlines()
        for part in _parts(without_inline_marks(line.strip()))
    )
    return [sentence for sentence in found if _WORD.search(sentence)]


def _parts(line: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(line):
        if not _is_abbreviation(line[: match.start()]):
            yield line[start : match.end(1)]
            start = match.end()
    yield line[start:]


def _is_abbreviation(text: str) -> bool:
    last = text.rsplit(maxsplit=1)[-1].lstrip("(\"'")
    return text.endswith(".") and last[:-1].lower() in _ABBREVIATIONS


def words(text: str) -> list[str]:
    """Lower-case words of ``text``, numbers left out; an apostrophe is straight."""
    return [match.group().lower().replace("\u2019", "'") for match in _WORD.finditer(text)]


def stems(text: str) -> frozenset[str]:
    """Stems of the content words of ``text``."""
    return frozenset(stem(word) for word in words(text) if word not in STOP_WORDS)


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Porter stem of a lower-case word, irregular forms first."""
    from nltk.stem.porter import PorterStemmer

    return str(PorterStemmer().stem(_IRREGULAR.get(word, word)))
