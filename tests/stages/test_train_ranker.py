"""Stage train-ranker: what it writes, when it trains again, what it refuses."""

from __future__ import annotations

import copy
import shutil

import pytest

from blender_med.errors import ConfigError, DataError
from blender_med.rankers import RANKERS
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, dry_run, open_run, stages_of, status
from blender_med.store.manifest import read_manifest

ONLY_TRAINING = Selection(only=("prepare", "generate", "score", "train-ranker"))


def _finished(run, name: str = "pairranker") -> str:
    manifest = read_manifest(run.stage_folder("train-ranker") / name)
    assert manifest is not None
    return manifest.model_dump_json()


def test_each_ranker_has_a_folder_that_loads(ranker_tree, go) -> None:
    second = copy.deepcopy(ranker_tree["stages"][3]["rankers"][0])
    second |= {"name": "second", "ranker": second["ranker"] | {"type": "simcls"}}
    ranker_tree["stages"][3]["rankers"].append(second)
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    for name, kind in (("pairranker", "pairranker"), ("second", "simcls")):
        folder = run.stage_folder("train-ranker") / name
        assert RANKERS.load(kind).from_pretrained(folder).config.model_type == kind
        assert (folder / "README.md").is_file()
    [plan] = [p for p in status(open_run(run.folder)) if p.name == "train-ranker"]
    assert plan.action == "skip"


def test_it_learns_from_train_and_dev_questions_only(ranker_tree, go) -> None:
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    parts = read_manifest(run.stage_folder("train-ranker") / "pairranker").parts
    long = [q for q in run.questions if q.task == "long"]
    assert 0 < parts["train"] <= sum(q.split == "train" for q in long)
    assert 0 < parts["dev"] <= sum(q.split == "dev" for q in long)


def test_a_ranker_is_kept_until_its_own_settings_or_data_change(ranker_tree, go) -> None:
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    first = _finished(run)
    _, actions = go(ranker_tree, "stages.train-ranker.rankers.0.training.micro_batch_size=2",
                    selection=ONLY_TRAINING)  # fmt: skip
    assert actions["train-ranker"] == "skip"
    # Another metric changes the input of the stage, but not what this ranker learns from.
    ranker_tree["stages"][2] = {"type": "score", "metrics": ["rougeL", "correct"]}
    run, actions = go(ranker_tree, selection=ONLY_TRAINING)
    assert actions["train-ranker"] == "run"
    assert _finished(run) == first
    assert any("kept" in note for note in run.notes)
    run, _ = go(ranker_tree, "stages.train-ranker.rankers.0.training.epochs=2",
                selection=ONLY_TRAINING)  # fmt: skip
    assert _finished(run) != first


def test_force_trains_again(ranker_tree, go) -> None:
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    first = _finished(run)
    forced = Selection(only=("train-ranker",), force=True)
    run, actions = go(ranker_tree, selection=forced)
    assert actions["train-ranker"] == "run"
    assert _finished(run) != first


def test_a_lost_ranker_is_the_only_one_trained_again(ranker_tree, go) -> None:
    second = copy.deepcopy(ranker_tree["stages"][3]["rankers"][0]) | {"name": "second"}
    ranker_tree["stages"][3]["rankers"].append(second)
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    kept = _finished(run)
    shutil.rmtree(run.stage_folder("train-ranker") / "second")
    run, actions = go(ranker_tree, selection=ONLY_TRAINING)
    assert actions["train-ranker"] == "resume"
    assert _finished(run) == kept
    assert _finished(run, "second")


def test_labels_of_the_stage_replace_those_of_the_recipes(ranker_tree, go) -> None:
    ranker_tree["stages"][3]["labels"] = ["rougeL", "chrf"]
    run, _ = go(ranker_tree, selection=ONLY_TRAINING)
    folder = run.stage_folder("train-ranker") / "pairranker"
    assert RANKERS.load("pairranker").from_pretrained(folder).config.n_tasks == 2
    assert "Labels: rougeL, chrf" in (folder / "README.md").read_text()


def test_dry_run_and_status_know_the_stage(ranker_tree, save_recipe, go) -> None:
    plans = dry_run(open_recipe(save_recipe(ranker_tree)), Selection())
    assert [p.name for p in plans] == [
        "prepare", "generate", "score", "train-ranker", "rank", "evaluate", "report",
    ]  # fmt: skip
    assert {p.action for p in plans} == {"run"}


def test_a_run_without_train_questions_says_so(ranker_tree, go) -> None:
    ranker_tree["stages"][0]["splits"] = {"dev": 0.5, "test": 0.5}
    with pytest.raises(DataError, match="no train question to learn from"):
        go(ranker_tree, selection=ONLY_TRAINING)


def _set(tree, stage: int, **changes) -> None:
    tree["stages"][stage] |= changes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.train-ranker.labels=[bleurt]", r"'train-ranker.pairranker.labels'.*not scored"),
        ("stages.train-ranker.labels=[length]", "no better and worse"),
        ("stages.train-ranker.rankers=[pairranker-minilmm]", "did you mean"),
        ("stages.train-ranker.rankers=[]", "rankers"),
        ("stages.train-ranker.rankers.0.ranker.backbone=./none", "no such model"),
        ("stages.train-ranker.rankers.0.trainin.epochs=3", "did you mean 'training'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    ranker_tree, save_recipe, override, message
) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(ranker_tree), [override]))


def test_two_rankers_of_one_name_are_refused(ranker_tree, save_recipe) -> None:
    ranker_tree["stages"][3]["rankers"] *= 2
    with pytest.raises(ConfigError, match=r"ranker 'pairranker' stands twice"):
        open_recipe(save_recipe(ranker_tree))
