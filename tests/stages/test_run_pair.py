"""``blender-med compare`` on two runs of the fake experts."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from lxml import html

from blender_med.cli.app import run_app
from blender_med.errors import ConfigError, DataError
from blender_med.stages.run_pair import compare_runs
from blender_med.stages.runner import Selection


@pytest.fixture
def two_runs(recipe_tree, go):
    """The same questions; in the second run expert poor has become as good as good."""
    first, _ = go(recipe_tree | {"name": "first"})
    recipe_tree["experts"][1]["engine_options"] = {"accuracy": 0.8}
    second, _ = go(recipe_tree | {"name": "second"})
    return first, second


def _command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["blender-med", *words])
    return run_app()


def test_compare_writes_table_and_page(two_runs, monkeypatch, capsys) -> None:
    first, second = (str(run.folder) for run in two_runs)
    assert _command(monkeypatch, "compare", first, second) == 0
    folder = Path(second) / "compare" / "first"
    with (folder / "differences.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["task"], r["protocol"], r["split"], r["method"], r["metric"]): r
                for r in csv.DictReader(file)}  # fmt: skip
    same = rows["mcq", "lm_eval", "test", "expert:good", "accuracy"]
    assert (float(same["delta"]), same["p_holm"]) == (0.0, "")
    better = rows["mcq", "lm_eval", "test", "expert:poor", "accuracy"]
    assert float(better["delta"]) == pytest.approx(float(better["second"]) - float(better["first"]))
    assert float(better["delta"]) > 0
    assert "p_holm" in better
    page = html.fromstring((folder / "index.html").read_text(encoding="utf-8"))
    assert page.xpath("//h1/text()") == ["second against first"]
    assert page.xpath(
        "//figure[@data-figure='difference-accuracy']//*[starts-with(@aria-label, 'expert:poor')]"
    )
    assert page.xpath("//script[@data-part='index']")
    assert "expert:poor" in capsys.readouterr().out


def test_questions_carry_both_runs(two_runs) -> None:
    row = next(compare_runs(*two_runs).answers())
    assert [c.key for c in row.candidates] == [
        *("good#0", "good#1", "poor#0", "poor#1"),
        *("first:good#0", "first:good#1", "first:poor#0", "first:poor#1"),
    ]
    answers = {answer.method: answer.candidate for answer in row.answers}
    assert answers["expert:good"] == "good#0"
    assert answers["first:expert:good"] == "first:good#0"


def test_another_reference_is_refused(two_runs, recipe_tree, go) -> None:
    path = Path(recipe_tree["dataset"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["reference"] = "Something else."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed, _ = go(recipe_tree | {"name": "changed"})
    with pytest.raises(DataError, match="has another 'reference' in the second run"):
        compare_runs(two_runs[0], changed)


def test_a_run_without_answers_is_refused(recipe_tree, go) -> None:
    ready, _ = go(recipe_tree | {"name": "ready"})
    unready, _ = go(recipe_tree | {"name": "unready"}, selection=Selection(only=("prepare",)))
    with pytest.raises(ConfigError, match="has not been evaluated yet"):
        compare_runs(ready, unready)
    with pytest.raises(ConfigError, match="has not been evaluated yet"):
        compare_runs(unready, ready)
