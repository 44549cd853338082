"""MedQuAD (Ben Abacha, Demner-Fushman 2019): consumer health questions from NIH web sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.data import fields
from blender_med.data.files import RowError, SourceFile
from blender_med.data.groups import connected
from blender_med.data.hub import HubSource
from blender_med.data.loader import Loader
from blender_med.data.markup import child_text, children, inner_text, parse_xml
from blender_med.data.quarantine import QuarantinedRow
from blender_med.data.rows import Row, refused
from blender_med.data.text import normalised, tidy
from blender_med.records import Passage, Question

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ROOTS = ("document", "doc", "diseasefile")
# MedlinePlus holds the copyright of these answers, so the authors emptied them.
_REMOVED = {"ADAM", "MPlusDrugs", "MPlusHerbsSupplements"}
_LABEL = re.compile(r"^(?:Key Points|Summary\s*:)\s*(?=\S)")
_QUESTION_MARKS = re.compile(r"\s*\?(?:\s*\?)+\s*$|\s+\?\s*$")


class MedQuAD(Loader):
    """XML documents in a folder or zips, in any of the three schemas, or the Hub's columns.

    Ids are folder, file stem and pair, because the documents' own ids repeat. ``group`` joins
    the documents that share a page (CancerGov cuts one page into files ``1_1``, ``1_2``), a
    focus, or a question, so that a split never separates them. A document that stands twice,
    byte for byte, is read once.
    """

    name = "medquad"
    hub = HubSource("lavita/MedQuAD")
    suffixes = (".xml", ".parquet", ".csv")
    signature = frozenset({"question", "Question"})

    def files(self, path: Path) -> Iterator[SourceFile]:
        """Files but those of ``liveqa_med_qrels``, which are judgements, not documents."""
        return (f for f in super().files(path) if "liveqa_med_qrels" not in f.path.parts)

    def rows(self) -> Iterator[Row]:
        """One row for each question-answer pair."""
        self._read: dict[tuple[str, str], set[str]] = {}
        return super().rows()

    def read(self, file: SourceFile) -> Iterator[Row]:
        """Pairs of one document; a document that cannot be read is one row with a problem."""
        if file.suffix in (".parquet", ".csv"):
            yield from super().read(file)
            return
        try:
            data = file.read()
            if self._is_repeat(file, data):
                return
            found = _pairs(file, parse_xml(data))
        except RowError as error:
            found = [refused(file, str(error))]
        yield from found

    def _is_repeat(self, file: SourceFile, data: bytes) -> bool:
        seen = self._read.setdefault((file.path.parent.name, file.stem), set())
        digest = sha256(data).hexdigest()
        repeated = digest in seen
        seen.add(digest)
        return repeated

    def parse(self, row: Row) -> Question:
        """One question with its cleaned reference answer."""
        value = fields.mapping(row.value)
        source = fields.optional(value, "source", "document_source")
        question = _question(fields.required(value, "question", "Question"))
        answer = fields.optional(value, "answer", "Answer")
        if answer is None:
            removed = " (removed by the source for copyright)" if source in _REMOVED else ""
            raise RowError(f"the answer is empty{removed}")
        document = fields.optional(value, "document", "document_id")
        return Question(
            id=f"medquad/{document or row.stem}/{_pair(value, row)}",
            dataset="medquad",
            split=row.split or "train",
            task="long",
            question=question,
            reference=_LABEL.sub("", tidy(answer)),
            meta=fields.meta(
                source=source,
                subject=fields.optional(value, "focus", "question_focus"),
                question_type=fields.optional(value, "qtype", "question_type"),
                category=fields.optional(value, "category"),
                url=fields.optional(value, "url", "document_url"),
                document=document,
            ),
        )

    def finish(
        self, items: list[Question | Passage | QuarantinedRow]
    ) -> list[Question | Passage | QuarantinedRow]:
        """Give every question its group, named after the first document in it."""
        questions = {i: q for i, q in enumerate(items) if isinstance(q, Question)}
        groups = connected([_ties(q) for q in questions.values()])
        for (index, question), group in zip(questions.items(), groups, strict=True):
            items[index] = replace(question, meta={**question.meta, "group": group})
        return items


def _ties(question: Question) -> list[str]:
    """What must stay together: the page, the focus and the wording; the page names the group."""
    page = question.meta.get("document", question.id)
    if question.meta.get("source") == "CancerGov":
        folder, _, stem = page.rpartition("/")
        page = f"{folder}/{stem.partition('_')[0]}"
    focus = normalised(question.meta.get("subject", ""))
    wording = normalised(question.question)
    return [page] + [f"focus {focus}"] * bool(focus) + [f"question {wording}"] * bool(wording)


def _question(text: str) -> str:
    return _QUESTION_MARKS.sub("?", " ".join(tidy(text).split()))


def _pair(value: Any, row: Row) -> str:
    return fields.optional(value, "pid", "question_id") or row.position


def _pairs(file: SourceFile, root: Element) -> list[Row]:
    if str(root.tag).lower() not in _ROOTS:
        raise RowError(f"not a MedQuAD document: its root is <{root.tag}>")
    document = f"{file.path.parent.name}/{file.stem}".lstrip("/")
    shared = {
        "document": document,
        "source": root.get("source") or root.get("corpus"),
        "url": root.get("url"),
        "focus": child_text(root, "focus", "doctitle-focus"),
        "category": inner_text(root.find("FocusAnnotations/Category")),
    }
    found = [
        pair for group in children(root, "qapairs") for pair in children(group, "qapair", "pair")
    ]
    if not found:
        raise RowError("the document has no question-answer pair")
    return [
        Row(file.name, _position(p, n), {**shared, **_pair_fields(p, n)}, file.stem)
        for n, p in enumerate(found, 1)
    ]


def _position(pair: Element, number: int) -> str:
    return pair.get("pid") or str(number)


def _pair_fields(pair: Element, number: int) -> dict[str, str | None]:
    questions = children(pair, "question")
    return {
        "pid": _position(pair, number),
        "qtype": questions[0].get("qtype") if questions else None,
        "question": child_text(pair, "question"),
        "answer": child_text(pair, "answer"),
    }
