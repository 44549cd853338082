"""A run's tables as Parquet, LaTeX and a card."""

from __future__ import annotations

import csv

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blender_med.errors import ConfigError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.reports.export import export_run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline
from blender_med.store.files import plain_text, spreadsheet_text


@pytest.fixture
def run(recipe_tree, save_recipe):
    """A finished run; one of its questions reads like a formula."""
    data = recipe_tree["dataset"]["path"]
    with open(data, "r+", encoding="utf-8") as file:  # noqa: PTH123
        text = file.read().replace("What is condition number 4?", "=1+1 & 50 % of_what?")
        file.seek(0)
        file.write(text)
        file.truncate()
    recipe_tree["stages"][2:4] = [
        {"type": "score", "metrics": ["chrf", "correct"]},
        {"type": "evaluate", "primary_long": "chrf"},
    ]
    opened = open_recipe(save_recipe(recipe_tree))
    run_pipeline(opened, LocalExecutor(ProgressDisplay(Console(), quiet=True)), Selection())
    return opened


def test_parquet_holds_every_table_with_types(run, tmp_path) -> None:
    files = export_run(run, "parquet", tmp_path / "out")
    report = run.stage_folder("report")
    assert {f.stem for f in files} == {f.stem for f in report.glob("*.csv")}
    table = pq.read_table(tmp_path / "out" / "methods.parquet").to_pylist()
    with (report / "methods.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(table) == len(rows)
    assert [r["n"] for r in table] == [int(r["n"]) for r in rows]
    assert [r["chrf"] for r in table] == [float(r["chrf"]) if r["chrf"] else None for r in rows]
    questions = pq.read_table(tmp_path / "out" / "answers.parquet")["question"].to_pylist()
    assert "=1+1 & 50 % of_what?" in questions


def test_latex_is_escaped_and_balanced(run, tmp_path) -> None:
    (file,) = export_run(run, "latex", tmp_path / "out")
    text = file.read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    assert r"best\_single & 1" in text
    assert r"95 \% interval" in text
    line = next(line for line in text.splitlines() if line.startswith("expert:good"))
    assert line.count("&") == 5
    assert line.endswith(r"\\")


def test_card_names_experts_data_figures_and_limits(run, tmp_path) -> None:
    (file,) = export_run(run, "card", tmp_path / "out")
    text = file.read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert "blender_med" in front["tags"]
    assert "| good | fake | see its source |" in text
    assert "40 questions" in text
    assert "No medical advice" in text
    assert "| best_single | " in text


def test_a_run_without_a_report(recipe_tree, save_recipe, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no report yet"):
        export_run(open_recipe(save_recipe(recipe_tree)), "card", tmp_path)


STARTS = st.sampled_from(["", "=", "'", "'=", "''=", "@", "+", "'a"])


@given(STARTS, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_the_guard_against_formulas_can_be_taken_off(start, text) -> None:
    cell = spreadsheet_text(start + text)
    assert not cell.startswith(("=", "@", "+", "-"))
    assert plain_text(cell) == start + text
