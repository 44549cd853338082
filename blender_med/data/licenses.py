"""Licence of an open-access article, from the places where publishers state it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blender_med.data.markup import inner_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LINK = re.compile(r"creativecommons\.org/(licenses/([a-z-]+)|publicdomain/(zero|mark))", re.I)
_PARTS = (
    (re.compile(r"non-?\s?commercial", re.I), "-NC"),
    (re.compile(r"no\s?-?deriv", re.I), "-ND"),
    (re.compile(r"share\s?-?alike", re.I), "-SA"),
)
_ATTRIBUTION = re.compile(r"creative commons attribution", re.I)


def article_license(article: Element) -> str | None:
    """``CC BY``, ``CC BY-NC``, ``CC0``, ``public domain``, ...; None where none is recognised.

    Links count before wording; the wording of the copyright statement counts last.
    """
    found = [*article.iter("license"), *article.iter("copyright-statement")]
    for element in found:
        links = [value for part in element.iter() for value in part.attrib.values()]
        match = _LINK.search(" ".join(links))
        if match is not None:
            return _linked(match)
    return next((name for e in found if (name := _worded(inner_text(e)))), None)


def _linked(match: re.Match[str]) -> str:
    if match[2]:
        return f"CC {match[2].upper()}"
    return "CC0" if match[3].lower() == "zero" else "public domain"


def _worded(text: str) -> str | None:
    if not _ATTRIBUTION.search(text):
        return "public domain" if "public domain" in text.lower() else None
    return "CC BY" + "".join(suffix for pattern, suffix in _PARTS if pattern.search(text))
