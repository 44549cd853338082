"""CSV tables: columns, formulas, nasty texts, atomic files; the console's tables."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from blender_med.errors import StoreError
from blender_med.metrics.scoring import score_candidates
from blender_med.records import Candidate, Question
from blender_med.reports.console import summary_tables
from blender_med.reports.tables import spreadsheet_cell, spreadsheet_text, write_csv, write_tables
from blender_med.stages.comparison import compare
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board
from blender_med.stages.methods.board import build_boards

NASTY = '=HYPERLINK("http://x")\r\n"quoted", comma\0 and \ud800 and \u2028'
METRICS = ("rouge1", "rougeL", "length", "correct")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def study():
    """12 long and 12 multiple-choice questions, two experts, one nasty candidate."""
    questions, candidates = [], []
    for i in range(12):
        split = "dev" if i % 3 == 0 else "test"
        meta = {"specialty": "cardiology" if i % 2 else "neurology"}
        questions.append(
            Question(
                f"l{i}", "sample", split, "long", "What?", None, None, None, "fever and cough", meta
            )
        )
        questions.append(
            Question(f"m{i}", "sample", split, "mcq", "Which?", None, ("x", "y"), i % 2, None, meta)
        )
        for name, text in (("good", "fever and cough"), ("poor", NASTY if i == 1 else "leg")):
            candidates.append(
                Candidate(
                    f"l{i}", name, 0, text, prompt_tokens=3, completion_tokens=2, seconds=0.25
                )
            )
            right = i % 2 if name == "good" else 0
            candidates.append(Candidate(f"m{i}", name, 0, "AB"[right], right, protocol="lm_eval"))
    return questions, candidates


@pytest.fixture
def comparison():
    questions, candidates = study()
    scores = score_candidates({q.id: q for q in questions}, candidates, METRICS)
    boards = build_boards(questions, candidates, scores)
    config = MethodSettings(seed=1)
    answers = (a for board in boards for a in answer_board(board, config))
    return compare(boards, answers, config, resamples=200)


def test_tables_of_a_study(comparison, tmp_path):
    names = [p.name for p in write_tables(tmp_path, comparison)]
    assert names == [
        *("methods.csv", "answers.csv", "slices.csv", "cost.csv", "confusion.csv"),
        "contamination.csv",
    ]
    # The fixture's questions are all alike: none is clean.
    overlaps = read(tmp_path / "contamination.csv")
    assert {(row["split"], row["kind"]) for row in overlaps} == {
        ("test", "question"),
        ("test", "answer"),
    }
    assert {row["clean_n"] for row in read(tmp_path / "methods.csv")} == {"", "0"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    rows = read(tmp_path / "methods.csv")
    header = list(rows[0])
    assert header[:6] == ["dataset", "split", "task", "protocol", "method", "n"]
    assert header[-4:] == ["experts_run", "tokens", "seconds", "note"]
    start = header.index("rougeL")
    assert header[start : start + 8] == [
        "rougeL",
        "rougeL_low",
        "rougeL_high",
        "rougeL_delta",
        "rougeL_delta_low",
        "rougeL_delta_high",
        "rougeL_p",
        "rougeL_p_holm",
    ]
    assert "length_p" not in header
    assert {"accuracy_p_holm", "macro_f1", "f1_A"} <= set(header)
    best = next(
        r for r in rows if (r["method"], r["task"], r["split"]) == ("best_single", "long", "test")
    )
    assert best["note"] == "chosen on dev: good"
    assert (float(best["rougeL"]), best["rougeL_delta"], best["accuracy"]) == (1.0, "", "")
    assert (best["n"], best["tokens"], best["seconds"]) == ("8", "40", "2")


def test_answers_table_streams_every_candidate(comparison, tmp_path):
    write_tables(tmp_path, comparison)
    rows = read(tmp_path / "answers.csv")
    assert [r["question_id"] for r in rows[:2]] == ["l0", "l1"]
    assert len(rows) == 24
    nasty = rows[1]["poor#0.text"]
    assert nasty == spreadsheet_text(NASTY)
    assert nasty.startswith("'=HYPERLINK")
    assert rows[1]["good#0.rougeL"] == "1"
    assert rows[1]["mbr.candidate"] in {"good#0", "poor#0"}
    mcq = rows[-1]
    assert (mcq["options"], mcq["gold"], mcq["majority_vote.choice"]) == (
        "A. x\nB. y",
        "B",
        "A",
    )
    assert "context" not in mcq


def test_slices_cost_and_confusion(comparison, tmp_path):
    write_tables(tmp_path, comparison)
    assert {r["slice"] for r in read(tmp_path / "slices.csv")} == {"specialty"}
    cost = next(r for r in read(tmp_path / "cost.csv") if r["method"] == "mbr")
    assert (cost["experts"], cost["tokens_per_question"]) == ("good; poor", "10")
    cells = read(tmp_path / "confusion.csv")
    assert {r["predicted"] for r in cells} == {"A", "B", "unparsed"}


def test_a_comparison_without_rows_still_has_headers(tmp_path):
    paths = write_tables(tmp_path, compare([], [], MethodSettings()))
    assert [p.read_bytes() for p in paths] == [b"dataset,split,task,protocol\r\n"] * 4


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, lambda: [({"dataset": "old"},)])
    old = path.read_text()

    def broken():
        yield ({"dataset": "new"},)
        if broken.calls:
            raise RuntimeError("stopped")
        broken.calls += 1

    broken.calls = 0
    with pytest.raises(RuntimeError):
        write_csv(path, broken)
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_csv(tmp_path / "file" / "t.csv", lambda: [])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (-0.5, "-0.5"),
        (3, "3"),
        (1e-9, "1e-09"),
        (-7, "-7"),
        (np.float64(0.1), "0.1"),
        ("", ""),
        ("plain", "plain"),
        ("-7", "'-7"),
        ("a=b", "a=b"),
    ],
)
def test_numbers_stay_numbers_and_texts_are_guarded(cell, text):
    assert spreadsheet_cell(cell) == text


STARTS = st.sampled_from(["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", ""])
# Any code point, lone surrogates and NUL included.
NASTY_TEXTS = st.builds(
    str.__add__, STARTS, st.text(st.characters(codec=None) | st.sampled_from('\0\r\n",\ud800;'))
)


@given(st.lists(NASTY_TEXTS, min_size=1, max_size=4), st.floats(allow_nan=False))
@settings(max_examples=150, deadline=None)
def test_nasty_texts_survive_a_round_trip(tmp_path_factory, texts, number):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    row = {f"c{i}": text for i, text in enumerate(texts)} | {"x": number, "end": "."}
    write_csv(path, lambda: [(row,)])
    (found,) = read(path)
    for i, text in enumerate(texts):
        cell = found.get(f"c{i}", "")
        assert cell == spreadsheet_text(text)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
            assert cell.removeprefix("'") == text or cell == text
    assert float(found["x"]) == pytest.approx(number, rel=1e-8)
    assert json.dumps(found["end"]) == '"."'


def test_pandas_reads_the_tables(comparison, tmp_path):
    pandas = pytest.importorskip("pandas")
    write_tables(tmp_path, comparison)
    frame = pandas.read_csv(tmp_path / "methods.csv")
    assert frame["rougeL_low"].dtype == float
    assert len(pandas.read_csv(tmp_path / "answers.csv")) == 24


def render(rows):
    console = Console(file=io.StringIO(), width=140)
    for table in summary_tables(rows):
        console.print(table)
    return console.file.getvalue()


def test_console_shows_test_rows_with_the_primary_metric(comparison):
    shown = render(comparison.methods)
    assert "sample, long, generative: test" in shown
    assert "sample, mcq, lm_eval: test" in shown
    assert "rougeL" in shown
    assert "accuracy" in shown
    assert "rouge1" not in shown
    assert "chosen on dev: good" in shown
    assert "oracle: upper bound" in shown
    assert ": dev" not in shown


def test_console_falls_back_to_the_last_split_and_takes_no_rows(comparison):
    dev = [row for row in comparison.methods if row.block.split == "dev"]
    assert "sample, long, generative: dev" in render(dev)
    assert render([]) == ""
