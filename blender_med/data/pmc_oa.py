"""PubMed Central Open Access: article bodies and the file list that states their licences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.data import fields
from blender_med.data.files import RowError, SourceFile, source_files
from blender_med.data.licenses import article_license
from blender_med.data.loader import Loader
from blender_med.data.markup import inner_text, parse_xml
from blender_med.data.quarantine import QuarantinedRow, QuarantinedRows, shortened
from blender_med.data.rows import Parsed, Row, csv_records
from blender_med.data.text import tidy
from blender_med.errors import ConfigError, DataError
from blender_med.records import Passage

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_COLUMNS = ("file", "citation", "accession_id", "updated", "pmid", "license")


@dataclass(frozen=True, slots=True)
class ListedArticle:
    """One line of the file list: where the package is, and under which licence.

    ``updated`` is kept as written, as re-saved lists use other date formats than NCBI's.
    """

    file: str
    citation: str
    accession_id: str
    updated: str
    pmid: str
    license: str


class PmcOpenAccess(Loader):
    """JATS or NLM XML (``.nxml``) bodies, joined to a file list where one stands beside them.

    A licence is what the file list says, else what the article says (``CC BY``, ``CC BY-NC``,
    ``CC0``, ``public domain``, ...). ``options: {licenses: [CC BY, CC0]}`` keeps articles under
    those licences only; an article of unknown licence is left out then.
    """

    name = "pmc_oa"
    record = Passage
    suffixes = (".nxml", ".xml", ".csv")
    signature = frozenset({"body"})
    settings = frozenset({"licenses"})

    def parser(self, file: SourceFile) -> Callable[[bytes], Iterator[Parsed]]:
        """File list or article, by the suffix."""
        return _parse_file_list if file.suffix == ".csv" else _parse_article

    def rows(self) -> Iterator[Row]:
        """Articles; the file lists are kept aside for their licences."""
        self._listed: dict[str, str] = {}
        for row in super().rows():
            if isinstance(row.value, ListedArticle) and row.problem is None:
                self._listed[row.value.accession_id] = row.value.license
            else:
                yield row

    def check(self, rows: list[Row]) -> None:
        """Refuse a file list without articles, then what any loader refuses."""
        if self._listed and not any(self.recognises(row.value) for row in rows):
            fix = "put the .nxml files beside the list; read_file_list says which to download"
            raise DataError("a file list without article bodies", file=self.config.path, fix=fix)
        super().check(rows)

    def select(self, rows: list[Row]) -> list[Row]:
        """Articles under one of the licences asked for; malformed rows stay."""
        wanted = self.config.options.get("licenses")
        if wanted is None:
            return rows
        names = _license_names(wanted)
        return [row for row in rows if row.problem or self._license(row.value) in names]

    def parse(self, row: Row) -> Passage:
        """One article: title, then abstract and body as text, a blank line between paragraphs."""
        value = fields.mapping(row.value)
        pmc = fields.optional(value, "pmc")
        text = "\n\n".join(p for p in (tidy(t) for t in (value["abstract"], *value["body"])) if p)
        if not value["body"]:
            raise RowError("the article has no body")
        return Passage(
            id=f"pmc_oa/{f'PMC{pmc}' if pmc else row.stem}",
            dataset="pmc_oa",
            split=row.split or "train",
            title=" ".join(fields.required(value, "title").split()),
            text=text,
            license=self._license(value),
            meta=fields.meta(
                pmcid=f"PMC{pmc}" if pmc else None,
                pmid=fields.optional(value, "pmid"),
                doi=fields.optional(value, "doi"),
                journal=fields.optional(value, "journal"),
                year=fields.optional(value, "year"),
                group=pmc or row.stem,
                source=row.stem,
            ),
        )

    def _license(self, value: Mapping[str, Any]) -> str | None:
        return self._listed.get(f"PMC{value['pmc']}") or value["license"]


def read_file_list(
    path: str | Path, licenses: list[str] | None = None
) -> tuple[list[ListedArticle], QuarantinedRows]:
    """Read ``oa_file_list.csv``, with or without its header line.

    Args:
        path: The CSV file.
        licenses: Keep these licences only, such as ``["CC BY", "CC0"]``; None keeps all.

    Returns:
        The articles in file order, and the malformed rows.

    Raises:
        DataError: The file is missing or holds no row of a file list.
    """
    articles: list[ListedArticle] = []
    quarantined = QuarantinedRows()
    for file in source_files(Path(path), (".csv",)):
        for position, value, problem in _listed_rows(file):
            if problem is None:
                articles.append(value)
            else:
                quarantined.append(QuarantinedRow(file.name, position, problem, shortened(value)))
    if not articles:
        raise DataError("not a PMC file list", file=path, fix="give oa_file_list.csv of PMC")
    return [a for a in articles if licenses is None or a.license in licenses], quarantined


def _listed_rows(file: SourceFile) -> Iterator[Parsed]:
    try:
        yield from _parse_file_list(file.read())
    except RowError as error:
        yield "", file.name, str(error)


def _parse_file_list(data: bytes) -> Iterator[Parsed]:
    for position, cells, problem in csv_records(data):
        if position == "1" and cells[:1] == ["File"]:
            continue
        if problem is None and len(cells) != len(_COLUMNS):
            problem = f"{len(cells)} cells in a row, not {len(_COLUMNS)}"
        if problem is None and not cells[2].startswith("PMC"):
            problem = f"the accession id is {cells[2][:60]!r}, not PMC and a number"
        yield position, cells if problem else ListedArticle(*cells), problem


def _parse_article(data: bytes) -> Iterator[Parsed]:
    root = parse_xml(data)  # refuses entity bombs before the library below sees the file
    article = root if root.tag == "article" else root.find(".//article")
    if article is None:
        raise RowError(f"not a JATS article: its root is <{root.tag}>")
    import pubmed_parser

    with tempfile.NamedTemporaryFile(suffix=".nxml") as file:
        file.write(data)
        file.flush()
        try:
            found = pubmed_parser.parse_pubmed_xml(file.name)
            paragraphs = pubmed_parser.parse_pubmed_paragraph(file.name, all_paragraph=True)
        except Exception as error:  # the library raises whatever its own lookups meet
            raise RowError(f"pubmed-parser cannot read the article: {error!r}"[:200]) from error
    yield "", _article(found, paragraphs, article), None


def _article(
    found: Mapping[str, Any], paragraphs: list[dict[str, Any]], article: Element
) -> dict[str, Any]:
    return {
        # pubmed-parser puts blanks around every italic letter of a title.
        "title": inner_text(article.find(".//title-group/article-title")),
        "abstract": " ".join(found["abstract"].split()),
        "body": [text for p in paragraphs if (text := " ".join(p["text"].split()))],
        "pmc": str(found["pmc"] or "").removeprefix("PMC"),
        "pmid": found["pmid"],
        "doi": found["doi"],
        "journal": found["journal"],
        "year": found["publication_year"],
        "license": article_license(article),
    }


def _license_names(wanted: Any) -> list[str]:
    if not isinstance(wanted, list) or not wanted:
        key = "dataset.options.licenses"
        raise ConfigError(
            "the licences must be a list", key=key, value=wanted, fix="write [CC BY, CC0]"
        )
    return [str(name) for name in wanted]
