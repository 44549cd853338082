"""blend, rank and fuse on a file of one's own: columns in, columns out, clear errors."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from blender_med.cli.app import run_app
from blender_med.rankers.similarity import BM25Ranker

ROWS = [
    {"id": 7, "question": "What is gout?", "candidates": ["Gout is a form of arthritis.", "No."]},
    {"id": 8, "question": "Is gout an infection?", "candidates": ["It is =not.", "Gout? Gout!"]},
]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line in this process; returns exit code, stdout, stderr."""

    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blender-med", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin.encode())))
        code = run_app()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    own = logging.getLogger("blender_med")
    own.handlers, own.propagate = [], True
    own.setLevel(logging.NOTSET)


@pytest.fixture
def experts(tmp_path: Path) -> list[Path]:
    """Recipes of two fake experts."""
    paths = []
    for name in ("good", "poor"):
        path = tmp_path / f"{name}-recipe.yaml"
        path.write_text(yaml.safe_dump({"name": name, "engine": "fake"}))
        paths.append(path)
    return paths


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_blend_asks_ranks_and_fuses(cli, experts, tmp_path) -> None:
    source, target = tmp_path / "q.csv", tmp_path / "out.csv"
    source.write_text('note,question\n=1+1,What is gout?\n"a,b",Is it an infection?\n')
    names = ",".join(map(str, experts))
    arguments = ["--experts", names, "--ranker", "bm25", "--guard", "--samples", 2, "-q"]
    code, out, err = cli("blend", source, *arguments, "-o", target)
    assert (code, out) == (0, ""), err
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["=1+1", "a,b"], "the user's cells stay as they are"
    for row in rows:
        texts, ranks = json.loads(row["candidates"]), json.loads(row["candidate_ranks"])
        assert json.loads(row["candidate_experts"]) == ["good#0", "good#1", "poor#0", "poor#1"]
        assert row["best_candidate"] == texts[ranks.index(1)]
        assert row["fused_outcome"] == "fused"
        if row["guard_kept"] == "candidate":
            assert row["fused_answer"] == row["best_candidate"]
            assert float(row["guard_margin"]) <= 0
        else:
            assert row["fused_answer"] not in texts
            assert float(row["guard_margin"]) > 0


def test_blend_reads_and_writes_streams(cli, experts) -> None:
    given = json.dumps({"question": "What is gout?", "n": None}) + "\n"
    arguments = ["--experts", experts[0], "--ranker", "bm25", "--fuser", "concatenation", "-q"]
    code, out, _ = cli("blend", "-", *arguments, stdin=given)
    [row] = _lines(out)
    assert code == 0
    assert row["n"] is None
    assert row["fused_answer"] == row["candidates"][0] == row["best_candidate"]


def test_blend_tells_what_was_cut_and_keeps_the_order_of_experts(cli, experts, tmp_path) -> None:
    given = json.dumps({"question": "What is gout?"}) + "\n"
    names = ",".join(map(str, reversed(experts)))
    arguments = ["--experts", names, "--ranker", "bm25", "--max-new-tokens", 2, "--guard"]
    code, _, err = cli("blend", "-", *arguments, "-o", tmp_path / "out.jsonl", stdin=given)
    assert code == 0
    [row] = _lines((tmp_path / "out.jsonl").read_text())
    assert row["candidate_experts"] == ["poor#0", "good#0"]
    assert "2 of 2 answers of experts were cut: see --max-new-tokens" in err
    assert "1 of 1 answers that were fused were cut" in err
    assert str(tmp_path / "out.jsonl") in err.replace("\n", "")


def test_blanks_around_generated_answers_are_left_out(cli, experts, monkeypatch) -> None:
    from blender_med.experts.fake import FakeExpert

    plain = FakeExpert.generate

    def spaced(self, *args, **kwargs):
        rows = plain(self, *args, **kwargs)
        return [[replace(c, text=f" {c.text}\n") for c in row] for row in rows]

    monkeypatch.setattr(FakeExpert, "generate", spaced)
    given = json.dumps({"question": "What is gout, and what comes of it?"}) + "\n"
    arguments = ["--experts", experts[0], "--ranker", "bm25", "--seed", 5, "-q"]
    code, out, _ = cli("blend", "-", *arguments, stdin=given)
    [row] = _lines(out)
    assert code == 0
    texts = [*row["candidates"], row["best_candidate"], row["fused_answer"]]
    assert all(texts) and texts == [text.strip() for text in texts]


def test_rank_orders_given_answers(cli, jsonl) -> None:
    code, out, _ = cli("rank", jsonl, "--ranker", "bm25", "-q")
    rows = _lines(out)
    assert code == 0
    assert [{k: row[k] for k in ROWS[0]} for row in rows] == ROWS
    corpus = [text for row in ROWS for text in row["candidates"]]
    for row in rows:
        [expected] = BM25Ranker(corpus).rank([row["question"]], [row["candidates"]])
        assert row["candidate_ranks"] == list(expected.ranks)
        assert row["candidate_scores"] == pytest.approx(list(expected.scores))
        assert row["best_candidate"] == row["candidates"][expected.ranks.index(1)]


def test_a_trained_ranker_and_a_trained_fuser_are_named_by_their_folders(
    cli, jsonl, tmp_path, tiny_encoder, tiny_fuser
) -> None:
    from blender_med.fusers.genfuser import GenFuser
    from blender_med.rankers.simcls import SimCLS

    ranker = SimCLS.from_backbone(tiny_encoder, source_maxlength=16, candidate_maxlength=16)
    ranker.save_pretrained(tmp_path / "ranker")
    GenFuser.from_pretrained(tiny_fuser, candidate_maxlength=32).save_pretrained(tmp_path / "fuser")
    trained = ["--ranker", tmp_path / "ranker", "--fuser", tmp_path / "fuser"]
    code, out, err = cli("fuse", jsonl, *trained, "--max-new-tokens", 4, "--guard", "-q")
    assert code == 0, err
    questions, groups = ([row[key] for row in ROWS] for key in ("question", "candidates"))
    rankings = SimCLS.from_pretrained(tmp_path / "ranker").rank(questions, groups)
    for row, ranking in zip(_lines(out), rankings, strict=True):
        assert row["candidate_scores"] == pytest.approx(list(ranking.scores), abs=1e-5)
    ordered = [
        [text for _, text in sorted(zip(ranking.ranks, group, strict=True))]
        for group, ranking in zip(groups, rankings, strict=True)
    ]
    fuser = GenFuser.from_pretrained(tmp_path / "fuser")
    texts = fuser.fuse(questions, ["", ""], ordered, max_new_tokens=4)
    for row, text, group in zip(_lines(out), texts, ordered, strict=True):
        kept = {"fused": text.strip(), "candidate": group[0]}
        assert row["fused_answer"].strip() == kept[row["guard_kept"]].strip()


def test_fuse_follows_the_ranks_of_an_earlier_rank(cli, jsonl) -> None:
    ranked = cli("rank", jsonl, "--ranker", "bm25", "-q")[1]
    code, out, err = cli("fuse", "-", "--fuser", "concatenation", "-q", stdin=ranked)
    assert code == 0, err
    for row in _lines(out):
        first = row["candidates"][row["candidate_ranks"].index(1)]
        assert row["fused_answer"].startswith(first) and row["best_candidate"] == first
    ranks = [row["candidate_ranks"] for row in _lines(out)]
    assert [2, 1] in ranks, "the order never changed"
    wrong = json.dumps(ROWS[0] | {"candidate_ranks": [1]})
    code, _, err = cli("fuse", "-", "--fuser", "concatenation", stdin=wrong)
    assert code == 1 and "row 1: 'candidate_ranks' is no list of a rank" in err.replace("\n", " ")


def test_a_blank_candidate_is_no_rival_of_the_guard(cli, tmp_path) -> None:
    path = tmp_path / "blank.jsonl"
    path.write_text(json.dumps({"question": "Why?", "candidates": ["", "It is arthritis."]}))
    arguments = ["--fuser", "concatenation", "--ranker", "bm25", "--guard", "-q"]
    code, out, err = cli("fuse", path, *arguments)
    assert code == 0, err
    assert _lines(out)[0]["fused_answer"] == "It is arthritis."


def test_half_a_character_pair_is_kept_out_of_texts_and_told_as_it_was(cli, tmp_path) -> None:
    path = tmp_path / "half.jsonl"
    row = '{"question": "Why \\ud83d?", "candidates": ["a \\ud83d b."], "note": "\\ud83d"}'
    path.write_text(row)
    code, out, err = cli("fuse", path, "--fuser", "concatenation", "-q")
    assert code == 0, err
    [found] = _lines(out)
    assert found["fused_answer"] == "a \ufffd b."
    assert {name: found[name] for name in json.loads(row)} == json.loads(row)
    code, _, err = cli("fuse", path, "--fuser", "concatenation", "-o", tmp_path / "out.csv", "-q")
    assert code == 0, err


def test_pickled_models_are_read_on_request_alone(cli, jsonl, tmp_path, tiny_fuser) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_fuser, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    arguments = ["fuse", jsonl, "--fuser", folder, "--max-new-tokens", 2, "-q"]
    code, _, err = cli(*arguments)
    assert code != 0 and "allow_pickle" in err
    code, out, err = cli(*arguments, "--allow-pickle")
    assert code == 0, err
    assert len(_lines(out)) == len(ROWS)


def test_fuse_takes_several_columns(cli, tmp_path, experts) -> None:
    path = tmp_path / "two.csv"
    path.write_text("q,a,b\nWhat is gout?,=An illness.,Arthritis.\n")
    columns = ["--question", "q", "--candidates", "a,b", "-q"]
    code, out, err = cli("fuse", path, "--fuser", "concatenation", *columns)
    assert code == 0, err
    [row] = csv.DictReader(io.StringIO(out))
    assert row["fused_answer"] == "'=An illness.\n\nArthritis.", "no formula for a spreadsheet"
    code, out, err = cli("fuse", path, "--fuser", f"expert:{experts[1]}", *columns)
    assert code == 0, err
    [row] = csv.DictReader(io.StringIO(out))
    assert row["fused_outcome"] == "fused"


def test_top_k_above_n_one_candidate_equal_and_blank_ones(cli, tmp_path) -> None:
    groups = [["a b."], ["a b.", "a b.", "c."], ["", "c."], ["", " "]]
    path = tmp_path / "edge.jsonl"
    path.write_text(
        "".join(json.dumps({"question": "q?", "candidates": own}) + "\n" for own in groups)
    )
    code, out, _ = cli("fuse", path, "--fuser", "concatenation", "--top-k", 9, "-q")
    found = [(row["fused_answer"], row["fused_outcome"]) for row in _lines(out)]
    assert code == 0
    assert found == [
        ("a b.", "fused"),
        ("a b.\n\nc.", "fused"),
        ("c.", "fused"),
        ("", "no_candidate_text"),
    ]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"q": "x"}', [], "received 'question'"),
        ('{"question": "x"}', [], "received 'candidates'"),
        ('{"question": "x", "candidates": ["a"]}\n{"question": "", "candidates": ["a"]}', [],
         "file.jsonl, row 2: 'question' is empty"),
        ('{"question": "x", "candidates": []}', [], "row 1: 'candidates' is no list with"),
        ('{"question": "x", "candidates": [1]}', [], "holds int where a text belongs"),
        ('{"question": "x", "candidates": "a"}', [], "text that is no JSON list"),
        ('{"question": "x", "candidates": ["a"]}\n{oops', [], "row 2: not valid JSON"),
        ('[1, 2]', [], "row 1: the row is int"),
        ("", [], "holds no row"),
        ('{"question": "x", "candidates": ["a"], "best_candidate": "y"}', [],
         "rename the column 'best_candidate'"),
        ('{"question": "x", "candidates": ["a"]}', ["--candidates", ","], "name at least one"),
        ('{"question": "x", "candidates": ["a"]}', ["--ranker", "./no/where"], "no such model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(cli, tmp_path, content, arguments, message) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(content)
    code, out, err = cli("rank", path, "--ranker", "bm25", *arguments)
    assert code in (1, 2) and out == ""
    assert message in err.replace("\n", " ")
    assert "Fix:" in err


def test_csv_errors_name_the_row(cli, tmp_path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('question,candidates\nx,"[""a""]"\ny,z,too many\n')
    code, _, err = cli("rank", path, "--ranker", "bm25")
    assert code == 1
    assert "file.csv, row 3: 3 cells in a row" in err.replace("\n", " ")


def test_names_are_checked_before_anything_runs(cli, jsonl, experts, tmp_path) -> None:
    twice = f"{experts[0]},{experts[0]}"
    source = tmp_path / "q.csv"
    source.write_text("question\nx\n")
    for arguments, message in (
        (["blend", source, "--experts", twice], "two experts have the same name"),
        (["blend", source, "--experts", "nobody"], "no such expert recipe"),
        (["fuse", jsonl, "--fuser", "concatenation", "--guard"], "name one with --ranker"),
        (["fuse", jsonl, "--fuser", "expert:nobody"], "no such expert recipe"),
        (["rank", tmp_path / "none.csv"], "no such file"),
    ):
        code, _, err = cli(*arguments)
        assert code in (1, 2)
        assert message in err.replace("\n", " ")


def test_a_full_disk_leaves_no_half_file(cli, jsonl, tmp_path, monkeypatch) -> None:
    from blender_med.reports import user_file

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(user_file, "write_rows", full)
    code, _, err = cli("rank", jsonl, "--ranker", "bm25", "-q", "-o", tmp_path / "out.jsonl")
    assert code == 1
    assert "No space left on device" in err and "free disk space" in err
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []
