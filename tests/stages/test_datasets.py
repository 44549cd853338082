"""A pipeline on several data sets."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from blender_med.errors import BlenderMedError, DataError
from blender_med.records import Question
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import open_run
from blender_med.stages.validation import validate_recipe
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts


def _write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def two_datasets(recipe_tree, tmp_path: Path) -> dict[str, Any]:
    """An exam with official splits, and long-form questions without."""
    exam = [
        {"id": str(i), "question": f"Exam {i}?", "options": ["a", "b"], "answer": "a",
         "split": "test" if i % 2 else "train"}
        for i in range(40)
    ]  # fmt: skip
    long = [{"id": str(i), "question": f"Why {i}?", "reference": f"Cause {i}."} for i in range(40)]
    recipe_tree["dataset"] = [
        {"type": "jsonl", "path": _write(tmp_path / "exam.jsonl", exam)},
        {"type": "jsonl", "path": _write(tmp_path / "long.jsonl", long)},
    ]
    recipe_tree["stages"][0] = "prepare"
    return recipe_tree


def _questions(run) -> list[Question]:
    return list(read_parts(run.stage_folder("prepare"), Question))


def _splits(run) -> set[tuple[str, str]]:
    return {(q.dataset, q.split) for q in _questions(run)}


def test_each_is_split_by_itself_and_reported_by_itself(two_datasets, go) -> None:
    run, _ = go(two_datasets)
    assert [q.dataset for q in _questions(run)] == ["exam"] * 40 + ["long"] * 40
    # The official test questions stay; where there are none, dev and test are made.
    exam = {q.id: q.split for q in _questions(run) if q.dataset == "exam"}
    assert all((exam[f"exam/{i}"] == "test") == bool(i % 2) for i in range(40))
    assert _splits(run) == {
        ("exam", "train"), ("exam", "dev"), ("exam", "test"), ("long", "dev"), ("long", "test"),
    }  # fmt: skip
    with (run.stage_folder("report") / "methods.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["dataset"], r["split"], r["task"]) for r in csv.DictReader(file)}
    tasks = {"exam": "mcq", "long": "long"}
    assert rows == {(name, split, tasks[name]) for name, split in _splits(run)}


def test_new_splits_reach_every_data_set(two_datasets, go) -> None:
    two_datasets["stages"][0] = {"type": "prepare", "splits": {"train": 0.5, "test": 0.5}}
    two_datasets["dataset"][1]["limit"] = 2
    run, _ = go(two_datasets, "stages.evaluate.methods=[random]")
    assert _splits(run) == {(name, s) for name in ("exam", "long") for s in ("train", "test")}


def test_one_of_several_is_split_anew(two_datasets, go, tmp_path) -> None:
    file = tmp_path / "long.csv"
    file.write_text("question,reference\n" + "".join(f"Why {i}?,So.\n" for i in range(40)))
    two_datasets["dataset"][1] = {"type": "csv", "path": str(file)}
    two_datasets["stages"][0] = {"type": "prepare", "splits": {"csv": {"train": 0.5, "test": 0.5}}}
    run, _ = go(two_datasets, "stages.evaluate.methods=[random]")
    assert {split for name, split in _splits(run) if name == "long"} == {"train", "test"}
    assert {split for name, split in _splits(run) if name == "exam"} == {"train", "dev", "test"}


def test_equal_ids_are_told_apart(two_datasets, go, tmp_path) -> None:
    rows = [{"id": str(i), "question": f"How {i}?", "reference": "So."} for i in range(4)]
    two_datasets["dataset"].append(
        {"type": "jsonl", "path": _write(tmp_path / "other" / "long.jsonl", rows)}
    )
    run, _ = go(two_datasets)
    ids = Counter(q.id for q in _questions(run))
    assert len(ids) == 84
    assert {f"long/{i}#2" for i in range(4)} < set(ids)


def test_a_change_in_one_file_is_noticed_and_a_new_place_is_not(two_datasets, go) -> None:
    go(two_datasets)
    file = Path(two_datasets["dataset"][1]["path"])
    moved = file.parent / "elsewhere" / file.name
    moved.parent.mkdir()
    two_datasets["dataset"][1]["path"] = str(file.rename(moved))
    assert go(two_datasets)[1]["prepare"] == "skip"
    moved.write_text(moved.read_text().replace("Why 3?", "Why three?"))
    assert go(two_datasets)[1]["prepare"] == "run"


def test_one_in_a_list_is_the_same_as_one(recipe_tree, go) -> None:
    run, _ = go(recipe_tree)
    manifest = read_manifest(run.stage_folder("prepare"))
    # Runs that were made when a pipeline had one data set stay up to date.
    assert {"dataset", "content"} < set(manifest.identity)
    recipe_tree["dataset"] = [recipe_tree["dataset"]]
    assert set(go(recipe_tree)[1].values()) == {"skip"}


def test_a_saved_run_reopens(two_datasets, recipe_tree, go) -> None:
    run, _ = go(two_datasets)
    assert open_run(run.folder).recipe == run.recipe
    saved = yaml.safe_load((run.folder / "recipe.yaml").read_text())["recipe"]
    assert saved["dataset"] == two_datasets["dataset"]


def test_malformed_rows_of_all_are_kept_and_strict_reaches_all(
    two_datasets, go, save_recipe
) -> None:
    for dataset in two_datasets["dataset"]:
        file = Path(dataset["path"])
        file.write_text(file.read_text() + "broken\n")
    run, _ = go(two_datasets)
    refused = (run.stage_folder("prepare") / "quarantine.csv").read_text()
    assert "exam.jsonl" in refused
    assert "long.jsonl" in refused
    strict = open_recipe(save_recipe(two_datasets), strict=True).recipe
    assert [dataset.strict for dataset in strict.dataset] == [True, True]


def test_a_data_set_without_a_usable_question_is_an_error(two_datasets, go) -> None:
    Path(two_datasets["dataset"][1]["path"]).write_text('{"question": "No answer?"}\n')
    with pytest.raises(DataError, match=r"long\.jsonl.*no usable question"):
        go(two_datasets)


def test_an_override_finds_a_data_set_by_place_or_type(two_datasets, save_recipe) -> None:
    two_datasets["dataset"][1]["type"] = "parquet"
    overrides = ["dataset.0.limit=3", "dataset.parquet.limit=5"]
    recipe = open_recipe(save_recipe(two_datasets), overrides).recipe
    assert [dataset.limit for dataset in recipe.dataset] == [3, 5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=[]", "key 'dataset'"),
        ("dataset.1.pth=x", r"key 'dataset.1.pth'.*did you mean 'path'"),
        ("dataset.1.type=medqua", r"key 'dataset.1.type'.*did you mean 'medquad'"),
        ("dataset.1.options.no=1", r"key 'dataset.1.options.no': unknown option"),
        ("dataset.1.path=./none.jsonl", r"key 'dataset.1.path': no such file"),
        ("dataset.1.path=null", r"key 'dataset.1.path': type jsonl needs a path"),
        ("dataset.1={type: pmc_oa}", r"key 'dataset.1.type': a pipeline needs questions"),
        ("dataset.limit=5", "list item by its type"),
        ("stages.prepare.splits={csv: {dev: 0.3, test: 0.7}}", "'csv', no data set of this"),
        ("stages.prepare.splits={jsonl: {dev: 0.3, test: 0.3}}", "must sum to 1"),
        ("stages.prepare.splits={dev: 0.3, test: {dev: 1}}", "splits"),
    ],
)
def test_mistakes_name_the_data_set(two_datasets, save_recipe, override, message) -> None:
    with pytest.raises(BlenderMedError, match=message):
        validate_recipe(save_recipe(two_datasets), [override])
