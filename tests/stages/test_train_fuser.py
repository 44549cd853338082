"""Stage train-fuser: what it reads and writes, when it trains again, what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import ConfigError
from blender_med.fusers.genfuser import GenFuser
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, stages_of
from blender_med.store.manifest import read_manifest

ONLY_TRAINING = Selection(only=("prepare", "generate", "score", "rank", "train-fuser"))


@pytest.fixture
def fuser_tree(recipe_tree: dict[str, Any], tiny_fuser: Path) -> dict[str, Any]:
    """Three splits, a ranker without training, and a fuser trained in a few steps."""
    job = {
        "name": "tiny",
        "candidates": {"metric": "rougeL", "top_k": 2},
        "fuser": {
            "type": "genfuser",
            "backbone": str(tiny_fuser),
            "max_length": 256,
            "candidate_maxlength": 16,
            "target_maxlength": 8,
        },
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "micro_batch_size": 4,
            "precision": "float32",
            "report_to": [],
            "max_dev_questions": 2,
            "decoding": {"num_beams": 1, "max_new_tokens": 4},
        },
    }
    recipe_tree["stages"] = [
        {"type": "prepare", "splits": {"train": 0.4, "dev": 0.2, "test": 0.4}},
        *recipe_tree["stages"][1:3],
        {"type": "rank", "rankers": ["bm25"]},
        {"type": "train-fuser", "fusers": [job]},
    ]
    return recipe_tree


def _finished(run: Any, name: str = "tiny") -> str:
    manifest = read_manifest(run.stage_folder("train-fuser") / name)
    assert manifest is not None
    return manifest.model_dump_json()


def test_a_fuser_lies_in_a_folder_that_loads(fuser_tree, go) -> None:
    run, _ = go(fuser_tree, selection=ONLY_TRAINING)
    folder = run.stage_folder("train-fuser") / "tiny"
    assert GenFuser.from_pretrained(folder).formatter.max_length == 256
    parts = read_manifest(folder).parts
    long = [q for q in run.questions if q.task == "long"]
    assert parts["train"] == sum(q.split == "train" for q in long) > 0
    assert parts["dev"] == sum(q.split == "dev" for q in long) > 0
    assert "the 2 best by rougeL" in (folder / "README.md").read_text()
    first = _finished(run)
    _, actions = go(fuser_tree, "stages.train-fuser.fusers.tiny.training.micro_batch_size=2",
                    selection=ONLY_TRAINING)  # fmt: skip
    assert actions["train-fuser"] == "skip"
    # Another ranker changes an input of the stage, but not what this fuser learns from.
    run, actions = go(fuser_tree, "stages.rank.shard_size=9", "stages.rank.rankers.0.name=lexical",
                      selection=ONLY_TRAINING)  # fmt: skip
    assert actions["train-fuser"] == "run"
    assert _finished(run) == first
    assert any("fuser tiny: kept" in note for note in run.notes)


def test_candidates_of_the_stage_replace_those_of_the_recipes(fuser_tree, go) -> None:
    fuser_tree["stages"][-1]["candidates"] = {"ranker": "bm25", "top_k": 1}
    run, _ = go(fuser_tree, selection=ONLY_TRAINING)
    card = run.stage_folder("train-fuser") / "tiny" / "README.md"
    assert "the 1 best by ranker bm25" in card.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.train-fuser.candidates={metric: bleurt}", "not scored in this run"),
        ("stages.train-fuser.candidates={metric: length}", "no better and worse"),
        ("stages.train-fuser.candidates={ranker: bm52}", "did you mean 'bm25'"),
        ("stages.train-fuser.fusers=[genfuser-smollm]", "did you mean"),
        ("stages.train-fuser.fusers=[]", "fusers"),
        ("stages.train-fuser.fusers.tiny.fuser.backbone=./none", "no such model"),
        ("stages.train-fuser.fusers.tiny.fuser.max_lenght=64", "did you mean 'max_length'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    fuser_tree, save_recipe, override, message
) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(fuser_tree), [override]))


def test_a_ranker_that_did_not_rank_the_train_questions_is_refused(fuser_tree, save_recipe) -> None:
    fuser_tree["stages"][-2]["splits"] = ["dev", "test"]
    fuser_tree["stages"][-1]["candidates"] = {"ranker": "bm25"}
    with pytest.raises(ConfigError, match="does not rank the questions of split train"):
        stages_of(open_recipe(save_recipe(fuser_tree)))
    del fuser_tree["stages"][-2]
    with pytest.raises(ConfigError, match="add stage rank before train-fuser"):
        stages_of(open_recipe(save_recipe(fuser_tree)))


def test_two_fusers_of_one_name_are_refused(fuser_tree, save_recipe) -> None:
    fuser_tree["stages"][-1]["fusers"] = [copy.deepcopy(fuser_tree["stages"][-1]["fusers"][0])] * 2
    with pytest.raises(ConfigError, match=r"fuser 'tiny' stands twice"):
        open_recipe(save_recipe(fuser_tree))


def test_a_recipe_by_name_is_spelt_out_so_that_overrides_reach_in(fuser_tree, save_recipe) -> None:
    fuser_tree["stages"][-1]["fusers"] = ["genfuser-flan-t5-large"]
    override = "stages.train-fuser.fusers.genfuser-flan-t5-large.candidates.metric=rougeL"
    run = open_recipe(save_recipe(fuser_tree), [override])
    [job] = run.recipe.stage("train-fuser").jobs
    assert (job.candidates.metric, job.candidates.top_k) == ("rougeL", 3)
