"""``blender-med train`` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A job without data, and a file of candidates beside it."""
    rows = [
        {
            "id": str(i), "instruction": f"what causes condition number {i} ?", "input": "",
            "output": "good",
            "candidates": [
                {"model": name, "text": f"{name} of {i}", "scores": {"goodness": value}}
                for name, value in (("good", 1.0), ("bad", 0.0))
            ],
        }
        for i in range(30)
    ]  # fmt: skip
    (tmp_path / "candidates.json").write_text(json.dumps(rows))
    tree = {
        "name": "toy",
        "output_dir": str(tmp_path / "models"),
        "labels": ["goodness"],
        "ranker": {"type": "simcls", "backbone": str(tiny_encoder)},
        "training": {"epochs": 1, "batch_size": 8, "report_to": [], "precision": "float32"},
    }
    tree["ranker"] |= {"source_maxlength": 16, "candidate_maxlength": 16}
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(tree))
    return file


def test_a_job_is_trained_once(cli, recipe, tmp_path) -> None:
    data = f"data.candidates={tmp_path / 'candidates.json'}"
    code, out, _ = cli("train", recipe, "--set", data)
    folder = tmp_path / "models" / "toy"
    assert code == 0
    assert "toy: trained" in out
    assert str(folder) in out.replace("\n", "")
    assert (folder / "model.safetensors").is_file()
    assert "up to date" in cli("train", recipe, "--set", data)[1]
    assert "toy: trained" in cli("train", recipe, "--set", data, "--force")[1]
    assert cli("train", recipe, "--set", data, "--quiet") == (0, "", "")


def test_a_job_without_data_says_how_to_name_some(cli, recipe) -> None:
    code, _, err = cli("train", recipe)
    assert code == 2
    assert "--set data.run=runs/NAME" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.epoch=3"], "did you mean 'epochs'"),
        (["--set", "data.run=no/such/run"], "no such run"),
        (["--set", "ranker.backbone=./missing"], "no such model"),
    ],
)
def test_wrong_settings_end_with_exit_code_2(cli, recipe, arguments, message) -> None:
    code, _, err = cli("train", recipe, *arguments)
    assert code == 2
    assert message in err


def test_data_that_are_missing_end_with_exit_code_1(cli, recipe) -> None:
    code, _, err = cli("train", recipe, "--set", "data.candidates=./missing.json")
    assert code == 1
    assert "missing.json" in err


def test_a_recipe_that_trains_nothing_is_refused(cli, tmp_path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text("name: odd\nengine: fake\n")
    code, _, err = cli("train", file)
    assert code == 2
    assert "not a training recipe" in err
    assert "ranker, fuser" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--set data.run=runs/NAME"),
        (["--set", "candidates.metrik=chrf"], "did you mean 'metric'"),
        (["--set", "fuser.backbone=expert:smollm2"], "did you mean 'smollm2-135m'"),
        (["--set", "training.dev_metric=rouge"], "no such text metric 'rouge'"),
    ],
)
def test_a_fuser_is_told_from_a_ranker_and_checked(cli, arguments, message) -> None:
    code, _, err = cli("train", "fusers/genfuser-smollm2.yaml", *arguments)
    assert code == 2
    assert message in " ".join(err.split())
