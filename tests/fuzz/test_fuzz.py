"""Generated inputs: whatever is read, nothing crashes without a message that says what to do.

Quick: a few dozen inputs for each target. Slow: 20,000 and more over all of them.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from blender_med.config import apply_overrides
from blender_med.data import load_passages, load_questions
from blender_med.data.quarantine import QuarantinedRow, QuarantinedRows
from blender_med.errors import BlenderMedError
from blender_med.experts.base import Completion
from blender_med.experts.openai import _MALFORMED, _completion, _echoed
from blender_med.prompts.parse import parse_choice
from blender_med.recipes_folder import shipped_recipes
from blender_med.reports.export import _latex_table, read_table
from blender_med.reports.page.document import Document, write_document
from blender_med.reports.page.questions import pack_questions
from blender_med.reports.page.sections import Figure, Table
from blender_med.reports.tables import write_csv
from blender_med.stages.comparison import AnswerCell, AnswerRow, Block, CandidateCell
from blender_med.stages.runner import open_run
from blender_med.stages.validation import validate_recipe
from blender_med.store.files import read_json
from blender_med.store.heartbeat import read_heartbeat
from blender_med.store.manifest import read_manifest, read_progress

QUICK, SLOW = 30, 2_000

texts = st.text(st.characters(codec=None), max_size=40)
odd = st.sampled_from(["", "\0", "\ud800", "=1+1", "@x", "'=x", "''", "\r\n", "\u2028", "9" * 400])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, odd, st.just(10**400)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | odd, inner, max_size=4),
    max_leaves=8,
)
NOISE = [
    *(b"", b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\\u", b"{", b"[", b"<", b"&x;"),
    *(b",", b"\n", b"- ", b": "),
]


def said(call: Callable[[], Any]) -> Any:
    """The result, or None where an error says what is wrong and what to do."""
    try:
        return call()
    except BlenderMedError as error:
        assert error.problem
        assert error.fix
        str(error).encode("utf-8", "backslashreplace")
        return None


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """``content`` with pieces cut, doubled, moved, or replaced by noise."""
    for _ in range(data.draw(st.integers(1, 5))):
        a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        piece = data.draw(st.sampled_from([*NOISE, content[a:b] * 2]) | st.binary(max_size=6))
        content = content[:a] + piece + content[b:]
    return content


ROW = {"question": "Q?", "options": ["a", "b"], "answer": 0}
MEDQA = {"question": "Q?", "answer": "b", "options": {"A": "a", "B": "b"}, "answer_idx": "B"}
MCQ = {"question": "Q?", "cop": 1, "opa": "a", "opb": "b", "opc": "c", "opd": "d", "exp": "e"}
PUBMEDQA = {"1": {"QUESTION": "Q?", "CONTEXTS": ["c"], "final_decision": "yes", "LONG_ANSWER": "l"}}
MEDQUAD = (
    b"<Document id='1' source='GARD'><Focus>F</Focus><QAPairs><QAPair pid='1'><Question qtype='t'>"
    b"Q?</Question><Answer>A.</Answer></QAPair></QAPairs></Document>"
)
LIVEQA = (
    b"<LiveQA2017-Medical-Test-Set-Full><NLM-QUESTION qid='TQ1'><Original-Question><MESSAGE>Q?"
    b"</MESSAGE></Original-Question><ReferenceAnswers><RefAnswer><ANSWER>A.</ANSWER></RefAnswer>"
    b"</ReferenceAnswers></NLM-QUESTION></LiveQA2017-Medical-Test-Set-Full>"
)
PUBMED = (
    b"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><Abstract>"
    b"<AbstractText>A.</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
    b"</PubmedArticleSet>"
)
NXML = b"<article><front><article-meta/></front><body><p>Text.</p></body></article>"
FILES: list[tuple[str, str, bytes]] = [
    ("jsonl", "a.jsonl", b"\n".join([json.dumps(ROW).encode()] * 3)),
    ("csv", "a.csv", b"question,reference\r\nQ?,A.\r\nP?,B.\r\n"),
    ("medqa", "a.jsonl", json.dumps(MEDQA).encode()),
    ("medmcqa", "a.json", json.dumps([MCQ, MCQ]).encode()),
    ("pubmedqa", "ori_pqal.json", json.dumps(PUBMEDQA).encode()),
    ("medical_meadow", "a.json", json.dumps([{"input": "Q?", "output": "A."}]).encode()),
    ("medquad", "a.xml", MEDQUAD),
    ("liveqa_med", "Test.xml", LIVEQA),
    ("pubmed_abstracts", "a.xml", PUBMED),
    ("pubmed_abstracts", "a.txt", b"1|t|T\n1|a|A\n\n2|t|T\n2|a|A\n"),
    ("pmc_oa", "a.nxml", NXML),
]


def data_files(data: st.DataObject, folder: Path) -> None:
    kind, name, content = data.draw(st.sampled_from(FILES))
    path = folder / name
    path.write_bytes(mutated(data, content))
    load: Any = load_passages if kind in ("pubmed_abstracts", "pmc_oa") else load_questions
    loaded = said(lambda: load(kind, path))
    for record in loaded or ():
        json.dumps(record.id).encode()
        getattr(record, "question", record.id).encode("utf-8")


def archives(data: st.DataObject, folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", data.draw(st.sampled_from([0, 8]))) as archive:
        names = st.sampled_from(["a.jsonl", "../b.jsonl", "/c.jsonl", "d/e.jsonl"])
        for name in data.draw(st.lists(names, unique=True)):
            archive.writestr(name, FILES[0][2])
    path = folder / "a.zip"
    path.write_bytes(mutated(data, buffer.getvalue()))
    said(lambda: load_questions("jsonl", path))
    assert {p.name for p in folder.parent.iterdir()}.isdisjoint({"b.jsonl"})


def parquet_files(data: st.DataObject, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ROW | {"answer": "a"}] * 3), path, compression="none")
    path.write_bytes(mutated(data, path.read_bytes()))
    said(lambda: load_questions("parquet", path))


def recipe_texts(data: st.DataObject, folder: Path) -> None:
    source = data.draw(st.sampled_from(sorted(shipped_recipes())))
    path = folder / "recipe.yaml"
    path.write_bytes(mutated(data, source.read_bytes()))
    said(lambda: validate_recipe(path))


def replaced(data: st.DataObject, node: Any) -> Any:
    """A tree with one of its nodes replaced by anything, or a key added."""
    if isinstance(node, dict) and node and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(node)))
        return node | {key: replaced(data, node[key])}
    if isinstance(node, list) and node and data.draw(st.integers(0, 3)):
        i = data.draw(st.integers(0, len(node) - 1))
        return [*node[:i], replaced(data, node[i]), *node[i + 1 :]]
    if isinstance(node, dict) and data.draw(st.booleans()):
        return node | {data.draw(texts | odd): data.draw(values)}
    return data.draw(values)


def recipe_values(data: st.DataObject, folder: Path) -> None:
    source = data.draw(st.sampled_from(sorted(shipped_recipes())))
    tree = replaced(data, yaml.safe_load(source.read_text("utf-8")))
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree, default=str))
    said(lambda: validate_recipe(path))


def overrides(data: st.DataObject, folder: Path) -> None:
    tree = {"a": {"b": [1, {"type": "x", "c": None}]}, "name": "n"}
    keys = st.lists(st.sampled_from(["a", "b", "0", "1", "2", "x", "c", "name", "", "9" * 400]))
    text = data.draw(keys.map(".".join) | texts)
    text += data.draw(st.sampled_from(["=", "", "=="])) + data.draw(texts | odd)
    said(lambda: apply_overrides(tree, [text]))
    assert tree == {"a": {"b": [1, {"type": "x", "c": None}]}, "name": "n"}


PIECES = [
    *("The answer is ", "B", "(A)", " or ", "not ", "option ", "yes", "no", "\\boxed{", "}", "\n"),
    *('{"answer_choice": "', '"', "Final answer: ", "C. ", "because ", "*" * 30, "\u00c4"),
]


def model_answers(data: st.DataObject, folder: Path) -> None:
    option = texts | st.sampled_from(["yes", "no", "maybe", "a", "B", ""])
    options = data.draw(st.lists(option, min_size=1, max_size=30))
    parts = data.draw(st.lists(st.sampled_from(PIECES) | texts, max_size=12))
    choice = parse_choice("".join(parts) * data.draw(st.sampled_from([1, 1, 200])), options)
    assert choice is None or 0 <= choice < len(options)


def tables(data: st.DataObject, folder: Path) -> None:
    cells = texts | odd | st.sampled_from(["=A1", "+1", "-1", "\t=1", "\uff1d1", "'=A1", "''@"])
    names = st.text("abc", min_size=1, max_size=3)
    rows = data.draw(st.lists(st.dictionaries(names, cells, min_size=1), min_size=1, max_size=4))
    path = folder / "t.csv"
    write_csv(path, lambda: [(row,) for row in rows])
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert not any(c[:1] in set("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") for row in found for c in row)
    for row, back in zip(rows, read_table(path), strict=False):
        for name, cell in row.items():
            if cell.isprintable() and name in back:
                assert back[name] == cell
    _latex_table("t", [["a"], *([c] for row in rows for c in row.values())])


def quarantines(data: st.DataObject, folder: Path) -> None:
    cells = st.tuples(*[texts | odd] * 4)
    rows = [QuarantinedRow(*c) for c in data.draw(st.lists(cells, max_size=3))]
    QuarantinedRows(rows).write_csv(folder / "q.csv")
    with (folder / "q.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(rows)


def states(data: st.DataObject, folder: Path) -> None:
    """Books of a run that somebody has edited or a disk has lost."""
    good = {"fingerprint": "f", "units": ["a"], "shard_size": 3}
    content = json.dumps(replaced(data, good)).encode()
    for name in ("manifest.json", "progress.json", "live.json", "recipe.yaml"):
        (folder / name).write_bytes(mutated(data, content) if data.draw(st.booleans()) else content)
    read_manifest(folder)
    read_progress(folder)
    read_heartbeat(folder / "live.json")
    read_json(folder / "recipe.yaml")
    said(lambda: open_run(folder))


def server_replies(data: st.DataObject, folder: Path) -> None:
    """The errors are those that the client takes for a reply that is not whole."""
    good = {
        "choices": [
            {"index": 0, "message": {"content": "x"}, "logprobs": {"token_logprobs": [-1]}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    tree = replaced(data, good)
    for read in (_completion, lambda reply: _echoed(reply, 1)):
        try:
            made = read(tree)
        except _MALFORMED:
            continue
        if isinstance(made, Completion):
            assert isinstance(made.text, str)
            assert made.prompt_tokens >= 0


SHAPES = [
    *("sk-{}", "hf_{}", "Bearer {}", "https://me:{}@host/v1"),
    *("{{'api_key': '{}'}}", '"password": "{}"'),
]
KEYS = st.text("abcdefABCDEF0123456789", min_size=20, max_size=40)


def secrets(data: st.DataObject, folder: Path) -> None:
    key = data.draw(KEYS)
    shape = data.draw(st.sampled_from(SHAPES))
    before = data.draw(texts)
    assume(key not in before)
    text = before + " " + shape.format(key)
    error = BlenderMedError(text, fix=text, value=text)
    assert key not in str(error)
    assert key not in str(BlenderMedError("p", fix="f", key="openai.api_key", value=key))


class Structure(HTMLParser):
    """Elements and attributes of a page, without its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, [] if tag == "script" else sorted(attrs, key=str)))

    def handle_comment(self, data: str) -> None:
        self.found.append(data)


MARKUP = st.sampled_from(["<script>", "</title>", '">', "<!--", "{{ 1 }}", "&lt;", "]]>", "</p>"])


def pages(data: st.DataObject, folder: Path) -> None:
    """No text becomes markup, and the browser of questions gets every text as it was."""
    block = Block("d", "long", "generative", "test")

    def page_of(draw: Callable[[], str]) -> tuple[str, AnswerRow]:
        cells = [tuple(draw() for _ in range(2)) for _ in range(2)]
        candidate = CandidateCell("a#0", draw(), "", {"rougeL": 0.5})
        answer = AnswerCell("m", "", "", draw(), 0.5, None)
        row = AnswerRow(
            block, draw(), draw(), draw(), draw(), "A", draw(), "rougeL", (candidate,), (answer,),
            {draw(): draw()},
        )  # fmt: skip
        note = Figure("data", draw(), draw(), None, Table((draw(), draw()), tuple(cells)))
        packed = pack_questions([row], {}, [block], {})
        written = write_document(
            folder, Document(draw(), draw(), ((draw(), draw()),), [], [note], packed, draw() or "s")
        )
        return written[0].read_text(encoding="utf-8"), row

    texts_or_markup = st.lists(texts | odd | MARKUP, max_size=3).map("".join)
    page, row = page_of(lambda: data.draw(texts_or_markup))
    plain, _ = page_of(lambda: "x")
    assert Structure(page).found == Structure(plain).found
    [part] = pack_questions([row], {}, [block], {}).pages
    [details] = json.loads(gzip.decompress(base64.b64decode(part, validate=True)))
    for key in ("question", "context", "options", "reference"):
        assert details[key] == getattr(row, key).encode("utf-8", "backslashreplace").decode()


TARGETS = [
    data_files, archives, parquet_files, recipe_texts, recipe_values, overrides, model_answers,
    tables, quarantines, states, server_replies, secrets, pages,
]  # fmt: skip
assert len(TARGETS) * SLOW >= 20_000


@pytest.mark.parametrize("examples", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_nothing_crashes(target, examples, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "in"
    folder.mkdir()
    inputs = 0

    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal inputs
        inputs += 1
        target(data, folder)

    attack()
    assert inputs >= examples
