"""Text of data sets: what is made safe, what is cleaned, what counts as the same."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[^\W_]+")
_BULLET = re.compile(r"[ \t\xa0]{2,}- ")
_BLANKS = re.compile(r"[ \t\xa0]+")
_LINE_BREAKS = re.compile(r"\n{3,}")


def storable(text: str) -> str:
    """``text`` without what Arrow and UTF-8 cannot hold: NUL bytes, lone surrogates."""
    return _SURROGATE.sub("�", text.replace("\x00", ""))


def tidy(text: str) -> str:
    """Undo page layout: runs of blanks and empty lines shrink, bullets get their own line.

    Words, punctuation and anything in angle brackets (``<5%``) stay. An empty text stays empty.
    """
    bulleted = _BULLET.sub("\n- ", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = (_BLANKS.sub(" ", line).strip() for line in bulleted.split("\n"))
    return _LINE_BREAKS.sub("\n\n", "\n".join(lines)).strip()


def words(text: str) -> list[str]:
    """Words for comparison: NFKC, lower case, runs of letters and digits."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


def normalised(text: str) -> str:
    """``words`` joined by a blank; equal for texts that differ in layout and case only."""
    return " ".join(words(text))


def text_group(text: str) -> str:
    """Short name of everything that reads like ``text``: hash of its normalised form."""
    return sha256((normalised(text) or text).encode("utf-8", "replace")).hexdigest()[:16]
