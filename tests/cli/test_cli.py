"""The command line as a user meets it: exit codes, messages, files."""

from __future__ import annotations

import csv
import sys

import pytest

from blender_med.cli.app import run_app


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line in this process; returns exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blender-med", *map(str, arguments)])
        code = run_app()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_run_writes_the_tables_and_prints_the_short_one(
    cli, recipe_tree, save_recipe, tmp_path
) -> None:
    code, out, _ = cli("run", save_recipe(recipe_tree))
    assert code == 0
    report = tmp_path / "runs" / "demo" / "report"
    assert "expert:good" in out
    assert str(report) in out.replace("\n", "")
    with (report / "methods.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows if row["split"] == "test"}
    assert {
        "expert:good", "expert:poor", "best_single", "random", "majority_vote", "weighted_vote",
        "constant", "mbr", "oracle",
    } <= methods  # fmt: skip
    for name in ("answers.csv", "slices.csv", "cost.csv"):
        with (report / name).open(encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) > 0


def test_expert_that_knows_more_wins(cli, recipe_tree, save_recipe, tmp_path) -> None:
    assert cli("run", save_recipe(recipe_tree), "-q")[0] == 0
    path = tmp_path / "runs" / "demo" / "report" / "methods.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test" and r["task"] == "long"]
    by_method = {row["method"]: row for row in rows}
    assert "good" in by_method["best_single"]["note"]
    assert float(by_method["expert:good"]["rougeL"]) > float(by_method["expert:poor"]["rougeL"])
    assert float(by_method["oracle"]["rougeL"]) >= float(by_method["best_single"]["rougeL"])


def test_quiet_run_prints_nothing(cli, recipe_tree, save_recipe) -> None:
    assert cli("run", save_recipe(recipe_tree), "--quiet") == (0, "", "")


def test_report_alone_writes_the_tables_again(cli, recipe_tree, save_recipe, tmp_path) -> None:
    cli("run", save_recipe(recipe_tree), "-q")
    run = tmp_path / "runs" / "demo"
    before = (run / "report" / "methods.csv").read_bytes()
    (run / "report" / "methods.csv").unlink()
    assert cli("report", run, "-q")[0] == 0
    assert (run / "report" / "methods.csv").read_bytes() == before


def test_status_and_dry_run(cli, recipe_tree, save_recipe, tmp_path) -> None:
    path = save_recipe(recipe_tree)
    code, out, _ = cli("run", path, "--dry-run")
    assert code == 0
    assert "no results yet" in out
    assert not (tmp_path / "runs").exists()
    cli("run", path, "-q", "--only", "prepare,generate")
    code, out, _ = cli("status", tmp_path / "runs" / "demo")
    assert code == 0
    assert out.count("finished 2") == 2
    assert out.count("not started") >= 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere.yaml"], 2, "no such recipe file"),
        (["run"], 2, "Missing argument"),
        (["run", "--nonsense"], 2, "No such option"),
        (["status", "."], 2, "no run here"),
        (["recipes", "copy", "pipelines/none.yaml"], 2, "no such recipe file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(cli, arguments, code, message) -> None:
    got, _, error = cli(*arguments)
    assert got == code
    assert message in error
    assert "Traceback" not in error


def test_missing_data_file_is_exit_code_1(cli, recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    code, _, error = cli("run", path, "--set", "dataset.path=./none.jsonl")
    assert code == 1
    assert "none.jsonl" in error
    assert "Fix:" in error


def test_validate_reports_every_recipe(cli, recipe_tree, save_recipe) -> None:
    good = save_recipe(recipe_tree)
    recipe_tree["stages"] = ["score"]
    bad = save_recipe(recipe_tree, "bad.yaml")
    code, out, error = cli("validate", good, bad, "experts/fake.yaml")
    assert code == 2
    assert out.count("ok:") == 2
    assert "stage 'score' reads the output of" in error


def test_recipes_can_be_listed_and_copied(cli, tmp_path) -> None:
    code, out, _ = cli("recipes", "list")
    assert code == 0
    assert "pipelines/quickstart.yaml" in out
    assert cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path)[0] == 0
    assert (tmp_path / "quickstart.yaml").is_file()
    code, _, error = cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path)
    assert code == 2
    assert "exists already" in error


def test_describe_prints_counts(cli) -> None:
    code, out, _ = cli("data", "describe", "data/sample.yaml")
    assert code == 0
    assert "cardiology" in out


def test_overlap_of_a_set_with_itself_and_another(cli, recipe_tree, save_recipe, tmp_path) -> None:
    data = save_recipe({"type": "jsonl", "path": str(tmp_path / "questions.jsonl")}, "own.yaml")
    table = tmp_path / "overlap.csv"
    code, out, _ = cli("data", "overlap", data, data, "--output", table)
    assert code == 0
    assert "40 questions compared with 40" in out
    assert table.is_file()


def test_prepare_says_where_the_weights_are(cli, tmp_path) -> None:
    assert cli("experts", "prepare", "fake") == (0, "fake: no weights\n", "")
    code, _, error = cli("experts", "prepare", "smollm2")
    assert code == 2
    assert "did you mean 'smollm2-135m'" in error


def test_version(cli) -> None:
    from blender_med import __version__

    assert cli("--version")[1].strip() == __version__
