"""LiveQA-Med (TREC 2017): consumer health questions with expert answers and human grades."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blender_med.data import fields
from blender_med.data.config import DatasetConfig
from blender_med.data.files import RowError, SourceFile
from blender_med.data.graded import GradedCandidates
from blender_med.data.loader import Loader
from blender_med.data.loading import load_dataset_config
from blender_med.data.markup import child_text, children, inner_text, parse_xml
from blender_med.data.quarantine import QuarantinedRow, QuarantinedRows, shortened
from blender_med.data.rows import Row, parse_csv, refused
from blender_med.data.text import storable, tidy
from blender_med.errors import DataError
from blender_med.records import Candidate, Question, Score

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

METRIC = "human_grade"
_ROOT = "LiveQA2017-Medical-Test-Set-Full"
_SUMMARIES = "summaries"
_GRADE = re.compile(r"([1-4])-[A-Za-z]+|(-2|[1-4])")
_WRAPPED = re.compile(r"[ \t]*\n[ \t]*\t[ \t]*")
_QRELS, _ANSWERS, _NIST = "All-qrels_*.txt", "All-2479-Answers-*.csv", "*qrels-NIST*.txt"


class LiveQAMed(Loader):
    """The test set's XML, with or without the question summaries.

    The question is subject and message as the consumer wrote them; paraphrase and summary stand
    in ``meta``. ``reference`` is the first reference answer, the others are ``reference_2``, ...
    in ``meta``. Of a folder that holds both files, the one with summaries is read.
    """

    name = "liveqa_med"
    suffixes = (".xml",)
    signature = frozenset({"qid"})

    def read(self, file: SourceFile) -> Iterator[Row]:
        """One row for each question; a file that cannot be read is one row with a problem."""
        try:
            root = parse_xml(file.read())
            if root.tag != _ROOT:
                raise RowError(f"not the LiveQA-Med test set: its root is <{root.tag}>")
            found = [_row(file, e, n) for n, e in enumerate(root.iter("NLM-QUESTION"), 1)]
        except RowError as error:
            found = [refused(file, str(error))]
        yield from found

    def select(self, rows: list[Row]) -> list[Row]:
        """Without the plain file where the one with summaries holds the same questions."""
        with_summaries = {row.position for row in rows if _SUMMARIES in row.stem}
        return [
            r for r in rows if _SUMMARIES in r.stem or r.position not in with_summaries or r.problem
        ]

    def parse(self, row: Row) -> Question:
        """One long-form question of the test split."""
        value = fields.mapping(row.value)
        qid = fields.required(value, "qid")
        asked = [fields.optional(value, name) for name in ("subject", "message")]
        text = "\n".join(part for part in asked if part)
        references = fields.texts(value["references"], "references")
        if not references:
            raise RowError("the question has no reference answer")
        more = {f"reference_{n}": text for n, text in enumerate(references[1:], start=2)}
        return Question(
            id=question_id(qid),
            dataset="liveqa_med",
            split="test",
            task="long",
            question=text or fields.required(value, "paraphrase"),
            reference=references[0],
            meta=fields.meta(
                group=qid,
                subject=fields.optional(value, "focus"),
                question_type=fields.optional(value, "types"),
                paraphrase=fields.optional(value, "paraphrase"),
                summary=fields.optional(value, "summary"),
                **more,
            ),
        )


def question_id(qid: str) -> str:
    """Id of the question that the data set calls ``qid`` (``TQ1``, in judgements ``1``)."""
    return f"liveqa_med/TQ{qid.removeprefix('TQ')}"


def load_grades(path: str | Path, qrels: str | Path | None = None) -> GradedCandidates:
    """Answers to LiveQA-Med questions that people graded, with their grades.

    Args:
        path: Folder of the test set; its NIST judgements are read where they stand beside it.
        qrels: Folder ``liveqa_med_qrels`` of MedQuAD: graded answers retrieved from MedQuAD.

    Returns:
        Candidates of expert ``nist`` (systems of the TREC track) and ``medquad``, ``sample``
        counting a question's answers in file order, and scores of the metric ``human_grade``:
        1 incorrect, 2 related, 3 incomplete, 4 excellent. Off-topic answers that nobody graded
        (-2), and judgements of unknown questions or answers, are quarantined.

    Raises:
        DataError: A file is missing, or nothing is graded.
    """
    config = DatasetConfig(type=LiveQAMed.name, path=str(path))
    known = {question.id for question in load_dataset_config(config)}
    graded = GradedCandidates([], [], QuarantinedRows())
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in sorted(folder.glob(_NIST)):
        _collect(graded, "nist", known, _nist_judgements(file))
    if qrels is not None:
        _collect(graded, "medquad", known, _medquad_judgements(Path(qrels)))
    if not graded.scores:
        fix = f"give a folder with {_NIST}, or the MedQuAD folder with {_QRELS} as 'qrels'"
        raise DataError("no graded answer", file=path, fix=fix)
    return graded


Judgement = tuple[Path, int, str, list[str] | None, str]


def _collect(
    graded: GradedCandidates, expert: str, known: set[str], judgements: Iterator[Judgement]
) -> None:
    samples: Counter[str] = Counter()
    for file, number, line, cells, text in judgements:
        try:
            name, grade = _checked(cells, known, text)
        except RowError as error:
            graded.quarantined.append(
                QuarantinedRow(str(file), str(number), str(error), shortened(line))
            )
            continue
        graded.candidates.append(Candidate(name, expert, samples[name], text))
        graded.scores.append(Score(name, expert, samples[name], METRIC, grade))
        samples[name] += 1


def _checked(cells: list[str] | None, known: set[str], text: str) -> tuple[str, float]:
    if cells is None or len(cells) < 2:
        raise RowError("not a question number, a grade and an answer")
    name, match = question_id(cells[0]), _GRADE.fullmatch(cells[1])
    if name not in known:
        raise RowError(f"no question {cells[0][:60]!r} in the test set")
    if match is None:
        raise RowError(f"the grade is {cells[1][:60]!r}, not 1 to 4")
    if match[2] == "-2":
        raise RowError("off-topic or unjudgeable (-2)")
    if not text:
        raise RowError("the text of the answer is empty or missing")
    return name, float(match[1] or match[2])


def _nist_judgements(file: Path) -> Iterator[Judgement]:
    for number, line in _numbered_lines(file):
        cells = line.split(maxsplit=2)
        yield file, number, line, cells, tidy(cells[2]) if len(cells) == 3 else ""


def _medquad_judgements(folder: Path) -> Iterator[Judgement]:
    answers = _answer_texts(_only(folder, _ANSWERS))
    file = _only(folder, _QRELS)
    for number, line in _numbered_lines(file):
        cells = line.split()
        yield file, number, line, cells if len(cells) == 3 else None, answers.get(cells[-1], "")


def _answer_texts(file: Path) -> dict[str, str]:
    try:
        rows = [value for _, value, problem in parse_csv(file.read_bytes()) if not problem]
    except RowError as error:
        raise DataError(str(error), file=file, fix="download the file again") from error
    found = {row.get("AnswerID", ""): row.get("Answer", "") for row in rows}
    return {name: tidy(text.partition("\nAnswer:")[2]) for name, text in found.items()}


def _numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    text = file.read_bytes().decode("utf-8-sig", "replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, storable(line.strip())


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        fix = "give the folder liveqa_med_qrels of MedQuAD"
        raise DataError(f"no file {pattern}", file=folder, fix=fix)
    return found[0]


def _row(file: SourceFile, element: Element, number: int) -> Row:
    qid = element.get("qid") or ""
    original = element.find("Original-Question")
    notes = element.find("ANNOTATIONS")
    value = {
        "qid": qid,
        "subject": _text(original, "subject"),
        "message": _text(original, "message"),
        "paraphrase": _text(element, "nist-paraphrase"),
        "summary": _text(element, "nlm-summary"),
        "focus": _listed(element, "FOCUS"),
        "types": _listed(notes, "TYPE"),
        "references": _references(element),
    }
    return Row(file.name, qid or str(number), value, file.stem)


def _listed(element: Element | None, tag: str) -> str:
    """Texts of all elements ``tag`` below ``element``, each once."""
    found = () if element is None else element.iter(tag)
    return "; ".join(dict.fromkeys(inner_text(e).strip() for e in found))


def _text(element: Element | None, tag: str) -> str:
    # A line break before tabs is where the XML was wrapped, not where the text has a line.
    return "" if element is None else tidy(_WRAPPED.sub(" ", child_text(element, tag)))


def _references(element: Element) -> list[str]:
    found = [answer for group in children(element, "referenceanswers") for answer in group]
    texts = [_text(answer, "answer") for answer in found]
    return [text for text in texts if text]
