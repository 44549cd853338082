from __future__ import annotations

import csv

import pytest

from blender_med.data import load_questions
from blender_med.data.quarantine import QuarantinedRow, QuarantinedRows, shortened


def test_csv_cells_cannot_run_as_formulas(tmp_path):
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1"]
    found = QuarantinedRows(QuarantinedRow("f", "1", f, f) for f in formulas)
    found.write_csv(tmp_path / "quarantine.csv")
    with (tmp_path / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["file", "position", "reason", "content"]
    assert [row[3] for row in rows] == ["'" + f for f in formulas]


def test_csv_of_a_load(write, tmp_path):
    path = write("m.jsonl", [{"question": "Q?", "reference": "r"}, {"question": '=cmd|"x"'}])
    load_questions("jsonl", path).quarantined.write_csv(tmp_path / "q.csv")
    with (tmp_path / "q.csv").open(newline="", encoding="utf-8") as file:
        (row,) = list(csv.DictReader(file))
    assert row["file"] == str(path)
    assert row["position"] == "2"
    assert "neither options nor a reference" in row["reason"]


@pytest.mark.parametrize("content", ["x" * 10_000, ["y"] * 10_000, {"a": "\ud800\x00"}, None, 3])
def test_content_is_short_and_storable(content):
    text = shortened(content)
    assert len(text) <= 500
    text.encode("utf-8")


def test_reasons_are_counted_most_frequent_first():
    rows = QuarantinedRows(QuarantinedRow("f", str(i), "ab"[i % 3 == 0], "") for i in range(9))
    assert rows.reasons() == {"a": 6, "b": 3}
    assert list(rows.reasons()) == ["a", "b"]
