"""PubMedQA (Jin et al. 2019): yes/no/maybe questions about an abstract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from blender_med.data import fields
from blender_med.data.files import RowError, SourceFile, source_files
from blender_med.data.hub import HubSource
from blender_med.data.loader import Loader
from blender_med.data.rows import Parsed, Row, parse_json
from blender_med.errors import DataError
from blender_med.records import Question

LABELS = ("yes", "no", "maybe")
_TEST_IDS = "test_ground_truth.json"


class PubMedQA(Loader):
    """The original object keyed by PMID, or the Hub's columns.

    The PMIDs of ``test_ground_truth.json`` beside the file (or ``options: {test_ids: FILE}``)
    are the official test split, all others ``train``; names such as ``dev_set.json`` count where
    there are no test ids. LONG_ANSWER is the abstract's conclusion, so it is the ``reference``
    and never part of ``context``.
    """

    name = "pubmedqa"
    hub = HubSource("qiaojin/PubMedQA", "pqa_labeled")
    signature = frozenset({"QUESTION", "CONTEXTS", "LONG_ANSWER", "context", "long_answer"})
    settings = frozenset({"test_ids"})

    def companions(self) -> list[Path]:
        """The files with the test ids: beside a single file, and the one the options name."""
        path = Path(str(self.config.path))
        beside = path.with_name(_TEST_IDS)
        alone = path.is_file() and path.suffix != ".zip" and beside != path
        named = self.config.options.get("test_ids")
        return [beside] * (alone and beside.is_file()) + [Path(str(named))] * (named is not None)

    def parser(self, file: SourceFile) -> Callable[[bytes], Iterator[Parsed]]:
        """JSON keyed by PMID, or Parquet."""
        found = super().parser(file)
        return partial(parse_json, keyed=True) if found is parse_json else found

    def rows(self) -> Iterator[Row]:
        """Rows with those of the id file taken out and kept."""
        self._test_ids: set[str] = set()
        companions = self.companions()
        id_files = {_TEST_IDS, *(path.name for path in companions)}
        files = (file for path in companions for file in source_files(path, self.suffixes))
        named = (row for file in files for row in self.read(file))
        for row in chain(named, super().rows()):
            if Path(row.file.rpartition("!")[2]).name in id_files and row.problem is None:
                self._test_ids |= _ids(row)
            else:
                yield row

    def check(self, rows: list[Row]) -> None:
        """Refuse test ids that were asked for and not found, then what any loader refuses."""
        if "test_ids" in self.config.options and not self._test_ids:
            value = self.config.options["test_ids"]
            fix = "give the JSON object that maps the PMIDs of the test set to their labels"
            raise DataError("no test ids", key="dataset.options.test_ids", value=value, fix=fix)
        super().check(rows)

    def parse(self, row: Row) -> Question:
        """One question with the options yes, no, maybe."""
        value = fields.mapping(row.value)
        body = _body(value)
        pmid = fields.optional(value, "pubid", "pmid") or row.position
        contexts = fields.texts(body.get("CONTEXTS", body.get("contexts")), "CONTEXTS")
        return Question(
            id=f"pubmedqa/{pmid}",
            dataset="pubmedqa",
            split=self._split(pmid, row),
            task="mcq",
            question=fields.required(value, "QUESTION", "question"),
            context="\n".join(contexts),
            options=LABELS,
            answer_index=_label(value),
            reference=fields.optional(value, "LONG_ANSWER", "long_answer"),
            meta=fields.meta(
                pmid=pmid,
                group=pmid,
                source=row.stem,
                year=fields.optional(value, "YEAR"),
                sections=_joined(body, "LABELS", "labels"),
                mesh=_joined(body, "MESHES", "meshes"),
            ),
        )

    def _split(self, pmid: str, row: Row) -> str:
        if self._test_ids:
            return "test" if pmid in self._test_ids else "train"
        return row.split or "train"


def _body(value: Any) -> Any:
    return fields.mapping(value["context"]) if "context" in value else value


def _label(value: Any) -> int:
    label = fields.required(value, "final_decision").strip().lower()
    if label not in LABELS:
        raise RowError(f"'final_decision' is {label[:60]!r}, not yes, no or maybe")
    return LABELS.index(label)


def _joined(body: Any, *names: str) -> str | None:
    found = next((body[name] for name in names if body.get(name)), None)
    if not isinstance(found, list):
        return None
    return "|".join(text for item in found if (text := fields.plain(item, names[0])))


def _ids(row: Row) -> set[str]:
    # One line of JSON is read as an object of labels, several lines as keyed rows.
    if isinstance(row.value, dict):
        return {str(key) for key in row.value}
    return {row.position}
