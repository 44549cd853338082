"""Abstracts of PubMed: PubTator files (BC5CDR), PubMed XML, KD-DTI JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from blender_med.data import fields
from blender_med.data.files import RowError, SourceFile
from blender_med.data.loader import Loader
from blender_med.data.markup import inner_text, parse_xml
from blender_med.data.rows import Parsed, Row, parse_json
from blender_med.data.text import tidy
from blender_med.records import Passage

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_PUBTATOR = re.compile(r"(\d+)\|([ta])\|(.*)")
_ANNOTATION = re.compile(r"\d+\t")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class PubMedAbstracts(Loader):
    """PubTator text, PubMed XML (also ``.gz``) or a JSON object keyed by PMID.

    The format is found from the content. Annotations and relations are not loaded. An abstract
    that is empty is quarantined.
    """

    name = "pubmed_abstracts"
    record = Passage
    suffixes = (".txt", ".pubtator", ".xml", ".xml.gz", ".json", ".jsonl")
    signature = frozenset({"abstract"})

    def parser(self, file: SourceFile) -> Callable[[bytes], Iterator[Parsed]]:
        """Parser that looks at the first characters."""
        return _parse

    def read(self, file: SourceFile) -> Iterator[Row]:
        """Rows of a file; text files without any PubTator line, such as a README, have none."""
        rows = list(super().read(file))
        is_text = file.suffix in (".txt", ".pubtator")
        if is_text and not any(self.recognises(row.value) for row in rows):
            rows = [] if file.stem.lower().startswith("readme") else rows
        yield from rows

    def parse(self, row: Row) -> Passage:
        """One abstract."""
        value = fields.mapping(row.value)
        pmid = fields.optional(value, "pmid") or row.position
        return Passage(
            id=f"pubmed_abstracts/{pmid}",
            dataset="pubmed_abstracts",
            split=row.split or "train",
            title=tidy(fields.optional(value, "title") or ""),
            text=tidy(fields.required(value, "abstract")),
            meta=fields.meta(
                pmid=pmid,
                group=pmid,
                source=row.stem,
                journal=fields.optional(value, "journal"),
                year=fields.optional(value, "year"),
                mesh=fields.optional(value, "mesh"),
            ),
        )


def _parse(data: bytes) -> Iterator[Parsed]:
    start = data[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return _parse_pubmed_xml(data)
    return (
        partial(parse_json, keyed=True)(data)
        if start[:1] in b"{[" and start
        else _parse_pubtator(data)
    )


def _parse_pubtator(data: bytes) -> Iterator[Parsed]:
    text = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    number = 0
    for block in re.split(r"\n[ \t]*\n", text):
        if block.strip():
            number += 1
            yield _pubtator_article(block.strip("\n"), number)


def _pubtator_article(block: str, number: int) -> Parsed:
    value: dict[str, str] = {}
    for line in block.split("\n"):
        match = _PUBTATOR.fullmatch(line)
        if match is not None and value.setdefault("pmid", match[1]) == match[1]:
            value["title" if match[2] == "t" else "abstract"] = match[3]
        elif not _ANNOTATION.match(line):
            return str(number), block, f"not a PubTator line: {line[:60]!r}"
    if _NOT_UTF8.search(block):
        return value.get("pmid", str(number)), block, "not valid UTF-8"
    missing = {"title", "abstract"} - value.keys()
    problem = f"no {' and '.join(sorted(missing))} line" if missing else None
    return value.get("pmid", str(number)), value, problem


def _parse_pubmed_xml(data: bytes) -> Iterator[Parsed]:
    root = parse_xml(data)
    if root.tag not in ("PubmedArticleSet", "PubmedArticle"):
        raise RowError(f"not PubMed XML: its root is <{root.tag}>")
    for number, article in enumerate(root.iter("PubmedArticle"), start=1):
        value = _pubmed_article(article)
        yield str(value["pmid"] or number), value, None


def _pubmed_article(article: Element) -> Mapping[str, Any]:
    parts = article.findall("MedlineCitation/Article/Abstract/AbstractText")
    return {
        "pmid": inner_text(article.find("MedlineCitation/PMID")),
        "title": " ".join(inner_text(article.find("MedlineCitation/Article/ArticleTitle")).split()),
        "abstract": "\n".join(_section(part) for part in parts),
        "journal": inner_text(article.find("MedlineCitation/Article/Journal/Title")),
        "year": inner_text(
            article.find("MedlineCitation/Article/Journal/JournalIssue/PubDate/Year")
        ),
        "mesh": "|".join(inner_text(e) for e in article.iter("DescriptorName")),
    }


def _section(part: Element) -> str:
    text = " ".join(inner_text(part).split())
    label = part.get("Label")
    return f"{label}: {text}" if label and label != "UNASSIGNED" else text
