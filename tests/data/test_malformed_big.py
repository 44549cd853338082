"""Generated damage: every row is a question or quarantined, or the error says what to do."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blender_med.data import load_passages, load_questions
from blender_med.data.liveqa_med import load_grades
from blender_med.data.mixinstruct import load_candidates
from blender_med.data.pmc_oa import read_file_list
from blender_med.errors import BlenderMedError

GENERATED = settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

GOOD: dict[str, dict[str, Any]] = {
    "medmcqa": {
        "question": "Q?",
        "cop": 1,
        "opa": "a",
        "opb": "b",
        "opc": "c",
        "opd": "d",
        "exp": "e",
    },
    "medqa": {
        "question": "Q?",
        "answer": "b",
        "options": {"A": "a", "B": "b", "C": "c", "D": "d"},
        "meta_info": "step1",
        "answer_idx": "B",
    },
    "medical_meadow": {"instruction": "Answer", "input": "Q?", "output": "A."},
    "mixinstruct": {"id": "1", "instruction": "I", "input": "", "output": "O", "candidates": []},
    "jsonl": {"question": "Q?", "options": ["a", "b"], "answer": 0},
    "sample": {
        "id": "s",
        "task": "mcq",
        "specialty": "s",
        "topic": "t",
        "question": "Q?",
        "options": ["a", "b"],
        "answer_index": 0,
        "explanation": "e",
        "source_note": "n",
    },
}
PUBMEDQA = {
    "QUESTION": "Q?",
    "CONTEXTS": ["c"],
    "LABELS": ["l"],
    "MESHES": ["m"],
    "YEAR": "2000",
    "final_decision": "yes",
    "LONG_ANSWER": "l",
}

texts = st.text(st.characters(codec=None), max_size=30)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-1, max_value=5),
    st.just(10**400),
    st.floats(allow_nan=True, allow_infinity=True),
    texts,
    st.sampled_from(["", " ", "\x00", "\ud800", "A", "b", "yes", "=1+1", "{'A': 'x'}", "E: x"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(texts, st.sampled_from("ABCD")), inner, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: Any, good: dict[str, Any]) -> Any:
    """A row with some fields replaced, removed or added; now and then something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(values)
    row = dict(good)
    for name in draw(st.lists(st.sampled_from(sorted(good)), max_size=3, unique=True)):
        if draw(st.booleans()):
            row[name] = draw(values)
        else:
            del row[name]
    return row


def file_of(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    )
    return path


def outcome(load: Callable[[], Any]) -> Any | None:
    """What was loaded, or None where a clear error was raised; any other exception fails."""
    try:
        return load()
    except BlenderMedError as error:
        assert error.problem
        assert error.fix
        str(error).encode("utf-8", "backslashreplace")
        return None


def assert_nothing_lost(load: Callable[[], Any], rows: int) -> None:
    loaded = outcome(load)
    if loaded is not None:
        assert len(loaded) + len(loaded.quarantined) == rows
        assert all(row.reason for row in loaded.quarantined)
        assert len({item.id for item in loaded}) == len(loaded)
        for item in loaded:
            item.question.encode("utf-8")
            assert item.task == "long" or item.options
            assert item.answer_index is None or 0 <= item.answer_index < len(item.options)


@pytest.mark.parametrize("name", sorted(GOOD))
@GENERATED
@given(data=st.data())
def test_damaged_rows(name, data, tmp_path):
    found = [GOOD[name], *data.draw(st.lists(damaged(GOOD[name]), max_size=6))]
    lines = file_of(tmp_path, "lines.jsonl", "\n".join(json.dumps(row) for row in found))
    whole = file_of(tmp_path, "whole.json", json.dumps(found, indent=1))
    assert_nothing_lost(lambda: load_questions(name, lines), len(found))
    assert_nothing_lost(lambda: load_questions(name, whole), len(found))


@GENERATED
@given(data=st.data())
def test_damaged_pubmedqa(data, tmp_path):
    entries = data.draw(st.dictionaries(texts, damaged(PUBMEDQA), max_size=5))
    entries = {"1": PUBMEDQA, **entries}
    path = file_of(tmp_path, "ori_pqal.json", json.dumps(entries, indent=1))
    assert_nothing_lost(lambda: load_questions("pubmedqa", path), len(entries))


@pytest.mark.parametrize("name", sorted(GOOD))
@GENERATED
@given(data=st.data())
def test_damaged_bytes_of_lines(name, data, tmp_path):
    lines = [json.dumps(GOOD[name]).encode()] * 4
    which = data.draw(st.integers(1, 3))
    at = data.draw(st.integers(0, len(lines[which])))
    junk = data.draw(st.binary(max_size=8)).replace(b"\n", b"")
    lines[which] = (
        lines[which][:at] + junk + lines[which][data.draw(st.integers(at, len(lines[which]))) :]
    )
    bom = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    path = file_of(tmp_path, "lines.jsonl", bom + end.join(lines))
    rows = sum(bool(line.decode("utf-8", "surrogateescape").strip()) for line in lines)
    assert_nothing_lost(lambda: load_questions(name, path), rows)


@pytest.mark.parametrize("name", ["medmcqa", "medqa", "medical_meadow", "pubmedqa"])
@GENERATED
@given(cut=st.floats(0, 1))
def test_truncated_json(name, cut, tmp_path):
    content: Any = {str(n): PUBMEDQA for n in range(5)} if name == "pubmedqa" else [GOOD[name]] * 5
    text = json.dumps(content, indent=1)
    path = file_of(tmp_path, "cut.json", text[: int(cut * len(text))])
    loaded = outcome(lambda: load_questions(name, path))
    if loaded is not None:
        whole = loaded.quarantined == []
        assert len(loaded) == 5 if whole else len(loaded.quarantined) == 1


@pytest.mark.parametrize("name", [*sorted(GOOD), "pubmedqa", "medquad", "liveqa_med", "csv"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"<a>" * 100_000,
        b"\x00" * 1000,
        b"\xff\xfe" + '{"question": 1}'.encode("utf-16-le"),
        b'{"question": ' + b"9" * 5000 + b"}",
        b'"',
        b"NaN",
        b"PK\x03\x04",
        b"\x80" * 50 + b"\n" + b"\x81",
    ],
)
def test_hostile_files(name, content, tmp_path):
    for file in ("x.json", "x.jsonl", "x.xml", "x.csv"):
        loaded = outcome(lambda f=file: load_questions(name, file_of(tmp_path, f, content)))
        assert loaded is None or loaded == [] or name in ("csv", "jsonl")


cells = st.one_of(texts, st.sampled_from(["A", "b", "0", "", '"', "a,b", "line\nbreak", "=x"]))


@GENERATED
@given(rows=st.lists(st.lists(cells, min_size=1, max_size=6), max_size=6))
def test_damaged_csv(rows, tmp_path):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["question", "a", "b", "answer"])
    writer.writerow(["Q?", "x", "y", "x"])
    writer.writerows(rows)
    path = file_of(tmp_path, "m.csv", buffer.getvalue())
    expected = 1 + sum(any(cell.encode("utf-8", "surrogatepass") for cell in row) for row in rows)
    assert_nothing_lost(lambda: load_questions("csv", path, columns={"options": "a,b"}), expected)


@GENERATED
@given(rows=st.lists(st.fixed_dictionaries({"question": texts, "answer": scalars}), max_size=5))
def test_damaged_parquet_values(rows, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [
        {
            "question": r["question"].encode("utf-8", "replace").decode(),
            "answer": str(r["answer"]).encode("utf-8", "replace").decode(),
            "options": ["a", "b"],
        }
        for r in rows
    ]
    found.append({"question": "Q?", "answer": "a", "options": ["a", "b"]})
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "m.parquet")
    assert_nothing_lost(lambda: load_questions("parquet", tmp_path / "m.parquet"), len(found))


PAIR = '<QAPair pid="{n}"><Question qtype="t">Q{n}?</Question><Answer>A.</Answer></QAPair>'
pieces = st.sampled_from(
    [
        "<QAPair/>",
        "<QAPair><Question>Q?</Question></QAPair>",
        "<QAPair><Question/><Answer>A.</Answer></QAPair>",
        "<pair><question>q</question><answer>a &lt;5%</answer></pair>",
        PAIR.format(n=1),
        PAIR.format(n=2),
        "<QAPair pid=''><Question>Q<b>old</b>?</Question><Answer> </Answer></QAPair>",
    ]
)


@GENERATED
@given(pairs=st.lists(pieces, min_size=1, max_size=6), cut=st.integers(0, 60))
def test_damaged_medquad(pairs, cut, tmp_path):
    text = f"<Document id='1' source='GARD'><QAPairs>{''.join(pairs)}</QAPairs></Document>"
    folder = tmp_path / "docs"
    folder.mkdir(exist_ok=True)
    file_of(folder, "1.xml", text)
    file_of(folder, "2.xml", text[: len(text) - cut] if cut else text.replace("'1'", "'2'"))
    rows = len(pairs) + (1 if cut else len(pairs))
    assert_nothing_lost(lambda: load_questions("medquad", folder), rows)


@GENERATED
@given(junk=st.binary(max_size=60), at=st.integers(0, 400))
def test_damaged_passages(junk, at, tmp_path):
    xml = b"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><Abstract>"
    xml += b"<AbstractText>A.</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
    xml += b"</PubmedArticleSet>"
    nxml = b"<article><front><article-meta/></front><body><p>Text.</p></body></article>"
    samples = {
        "a.xml": ("pubmed_abstracts", xml),
        "a.txt": ("pubmed_abstracts", b"1|t|T\n1|a|A\n\n2|t|T\n2|a|A\n"),
        "a.json": ("pubmed_abstracts", b'{"1": {"title": "T", "abstract": "A"}}'),
        "a.nxml": ("pmc_oa", nxml),
    }
    for file, (name, content) in samples.items():
        path = file_of(tmp_path, file, content[:at] + junk + content[at:])
        outcome(lambda n=name, p=path: load_passages(n, p))
    outcome(lambda: read_file_list(file_of(tmp_path, "oa.csv", b"f,c,PMC1,d,p,CC BY\n" + junk)))


@GENERATED
@given(lines=st.lists(st.one_of(texts, st.sampled_from(["1 3 x", "1 9 x", "7 1 x"])), max_size=6))
def test_damaged_grades(lines, tmp_path):
    xml = "<LiveQA2017-Medical-Test-Set-Full><NLM-QUESTION qid='TQ1'><Original-Question><MESSAGE>Q?"
    xml += (
        "</MESSAGE></Original-Question><ReferenceAnswers><RefAnswer><ANSWER>A.</ANSWER></RefAnswer>"
    )
    xml += "</ReferenceAnswers></NLM-QUESTION></LiveQA2017-Medical-Test-Set-Full>"
    file_of(tmp_path, "Test.xml", xml)
    text = "\n".join(["1 2 fine", *lines])
    file_of(tmp_path, "x-qrels-NIST-1.txt", text)
    found = load_grades(tmp_path)
    decoded = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    rows = sum(bool(line.strip()) for line in decoded.split("\n"))
    assert len(found.candidates) + len(found.quarantined) == rows


@GENERATED
@given(candidates=st.lists(values, max_size=4), scores=values)
def test_damaged_candidates(candidates, scores, tmp_path):
    good = {"model": "m", "text": "t", "scores": scores}
    row = {**GOOD["mixinstruct"], "candidates": [good, *candidates]}
    path = file_of(tmp_path, "mix.jsonl", json.dumps(row))
    found = outcome(lambda: load_candidates(path))
    assert found is not None
    assert len(found.candidates) >= 1
    refused = [r for r in found.quarantined if not r.reason.startswith("score ")]
    assert len(found.candidates) + len(refused) == 1 + len(candidates)
