"""Marks of list items and names of candidates, whose numbers count nothing.

``1. Rest``, ``2) Drink water``, ``Candidate 1: Rest``.
"""

from __future__ import annotations

import re

# A candidate of the prompt as a fuser may name it in its answer.
LABEL = r"\b(?:[Cc]andidate|Answer|Option|Response)s?\s\d{1,2}(?:(?:,|,?\s(?:and|or))\s\d{1,2})*\b"
_NUMBERED = r"\(?\d{1,2}[.):](?=\s|[*_]|$)"
_MARK = re.compile(
    rf"\s*(?:[-•#]+\s*|\*\s+)*(?:[*_]{{0,2}}(?:{_NUMBERED}|{LABEL}\s?:)[*_]{{0,2}})?\s*"
)
_INLINE = re.compile(r"(?:(?<=\s)|^)\(?(?P<number>\d{1,2})(?P<end>[.)])\s+(?=[\"'*]*[A-Za-z])")


def without_mark(text: str) -> str:
    """``text`` without the bullet, number or candidate's name in front of it."""
    return _MARK.sub("", text, count=1)


def without_inline_marks(line: str) -> str:
    """``line`` without the numbers of a list that runs through it: 1, 2, 3, ...

    ``1.`` begins one behind punctuation, ``1)`` also behind a word if ``2)`` follows. A number
    out of turn or in parentheses with a word is a claim.
    """
    marks: list[re.Match[str]] = []
    for match in _INLINE.finditer(line):
        if int(match["number"]) == len(marks) + 1 and (marks or _may_begin(match)):
            marks.append(match)
    if len(marks) == 1 and not _behind_punctuation(marks[0]):
        return line
    for match in reversed(marks):
        line = line[: match.start()] + line[match.end() :]
    return line


def _may_begin(match: re.Match[str]) -> bool:
    before = match.string[: match.start()]
    closed = before.count("(") <= before.count(")")
    return closed and (match["end"] == ")" or _behind_punctuation(match))


def _behind_punctuation(match: re.Match[str]) -> bool:
    return match.string[: match.start()].rstrip()[-1:] in ("", *":;.!?")
