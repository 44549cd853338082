"""The command line as a user meets it: exit codes, messages, files."""

from __future__ import annotations

import csv
import json
import logging
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

    yield run
    own = logging.getLogger("blender_med")
    own.handlers, own.propagate = [], True
    own.setLevel(logging.NOTSET)


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


def test_strict_makes_a_malformed_row_an_error(cli, recipe_tree, save_recipe, tmp_path) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text(data.read_text() + '{"id": "broken"\n')
    path = save_recipe(recipe_tree)
    code, _, error = cli("run", path, "--strict")
    assert code == 1
    assert "questions.jsonl, row 41: not valid JSON" in error
    code, out, _ = cli("run", path)
    assert code == 0
    assert "1 malformed rows are in" in out


def test_validate_reports_every_recipe(cli, recipe_tree, save_recipe) -> None:
    good = save_recipe(recipe_tree)
    recipe_tree["stages"] = ["score"]
    bad = save_recipe(recipe_tree, "bad.yaml")
    code, out, error = cli("validate", good, bad, "experts/fake.yaml")
    assert code == 2
    assert out.count("ok:") == 2
    assert "stage 'score' reads the output of" in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.score.metrics=[rougel]", "key 'stages.2.metrics': unknown metric 'rougel'"),
        ("stages.evaluate.methods=[mbrr]", "did you mean 'mbr'"),
        ("dataset.type=csv", ""),
        ("dataset={type: pmc_oa}", "key 'dataset.type': a pipeline needs questions"),
        ("dataset.options.no=1", "key 'dataset.options.no': unknown option"),
        ("dataset={type: csv}", "key 'dataset.path': type csv needs a path"),
        ("dataset={type: medqua}", "key 'dataset.type': unknown data set type"),
        ("experts.good.engine_options.accuracy=2", "key 'experts.0.engine_options.accuracy'"),
        ("experts=[{name: x, model: /none}]", "key 'experts.0.model': no such model folder"),
        ("stages.generate.devices=['cuda:0']", "key 'stages.1.devices': 'cuda:0' is no GPU"),
        ("experts=[smollm]", "key 'experts.0': no such expert recipe"),
        ("experts.good.sampling.temperature=0", "'good' answers greedily"),
        ("stages.generate.long.sampling.max_tokens=4000", "no room for a prompt in the 2048"),
    ],
)
def test_validate_names_key_and_fix(cli, recipe_tree, save_recipe, override, message) -> None:
    code, _, error = cli("validate", save_recipe(recipe_tree), "--set", override)
    assert code == (2 if message else 0), error
    assert message in error
    assert not message or ("Fix:" in error and "demo.yaml" in error)


def test_validate_without_needless_complaints(cli, recipe_tree, save_recipe) -> None:
    """Long answers that the default would allow are no mistake of a multiple-choice recipe."""
    recipe_tree["stages"][1].pop("long")
    recipe_tree["experts"][0]["max_model_len"] = 100
    assert cli("validate", save_recipe(recipe_tree))[0] == 0


def test_another_recipe_is_no_pipeline(cli) -> None:
    code, _, error = cli("run", "experts/fake.yaml")
    assert code == 2
    assert "it has no 'stages'" in error


def test_recipes_can_be_listed_and_copied(cli, tmp_path) -> None:
    code, out, _ = cli("recipes", "list")
    assert code == 0
    assert "pipelines/quickstart.yaml" in out
    assert cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path)[0] == 0
    assert (tmp_path / "quickstart.yaml").is_file()
    code, _, error = cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path)
    assert code == 2
    assert "exists already" in error
    assert cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path / "new")[0] == 0
    assert (tmp_path / "new" / "quickstart.yaml").is_file()
    assert cli("recipes", "copy", "pipelines/quickstart.yaml", tmp_path / "mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").is_file()


def test_describe_prints_counts(cli) -> None:
    code, out, _ = cli("data", "describe", "data/sample.yaml")
    assert code == 0
    assert "cardiology" in out


def test_brackets_in_the_data_are_no_markup(cli, tmp_path) -> None:
    row = {"question": "Q?", "reference": "r", "subject": "[/bold] [3H]thymidine"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    code, out, _ = cli(
        "data", "describe", "data/own_questions.yaml", "--set", "type=jsonl",
        "--set", "columns={}", "--set", f"path={tmp_path / 'm.jsonl'}",
    )  # fmt: skip
    assert code == 0
    assert "[/bold] [3H]thymidine" in out


def test_describe_counts_passages_too(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("1|t|Title\n1|a|An abstract.\n\n2|t|Alone\n")
    place = f"path={tmp_path / 'a.txt'}"
    code, out, _ = cli("data", "describe", "data/pubmed_abstracts.yaml", "--set", place)
    assert code == 0
    assert "1 passages, 2 words, in 1 groups, 1 rows quarantined\n" in out
    assert "no abstract line" in (tmp_path / "pubmed_abstracts.quarantine.csv").read_text()


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


def test_a_run_under_torchrun_is_refused(
    cli, recipe_tree, save_recipe, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, _, err = cli("run", save_recipe(recipe_tree))
    assert code == 2
    assert "started 2 processes" in err and "torchrun -m blender_med train" in err
    assert not (tmp_path / "runs").exists()
