"""Stage embed with fake experts: what is written, resumed, skipped, and refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import ConfigError
from blender_med.fusers.hidden_states import Key, StateStore
from blender_med.records import Candidate, Question
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, stages_of
from blender_med.store.shards import read_parts


@pytest.fixture
def tree(recipe_tree: dict[str, Any], tiny_encoder: Path) -> dict[str, Any]:
    """Twelve questions whose options and answers two experts embed."""
    embed = {
        "type": "embed",
        "texts": ["question", "option", "answer"],
        "shard_size": 5,
        "question_encoder": str(tiny_encoder),
    }
    recipe_tree["dataset"]["limit"] = 12
    recipe_tree["experts"][1]["engine_options"]["hidden_size"] = 6
    recipe_tree["stages"] = [*recipe_tree["stages"][:2], embed]
    return recipe_tree


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*.npy")}


def test_every_expert_embeds_every_text(tree: dict[str, Any], go: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    run, _ = go(tree)
    store = StateStore(run.stage_folder("embed"))
    assert set(store.experts) == {"good", "poor", "question-encoder"}
    assert (store.width("good"), store.width("poor"), store.width("question-encoder")) == (8, 6, 32)
    questions = list(read_parts(run.stage_folder("prepare"), Question))
    keys = {Key(q.id, "question") for q in questions}
    assert set(store.texts("question-encoder")) == keys
    keys |= {Key(q.id, f"option:{i}") for q in questions for i in range(len(q.options or ()))}
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    keys |= {Key(c.question_id, f"answer:{c.key}") for c in candidates}
    assert set(store.texts("good")) == set(store.texts("poor")) == keys
    size = f"embed: good: {len(keys)} texts x 1 x 8 float16"
    assert any(size in record.message for record in caplog.records)
    first = next(q for q in questions if q.options)
    rows = store.rows("good", [Key(first.id, f"option:{i}") for i in range(4)])
    assert sorted(rows[:, 0, 0].tolist()) == [-1, -1, -1, 1]  # the fake believes in one


def test_a_resumed_run_equals_an_uninterrupted_one(tree: dict[str, Any], go: Any) -> None:
    run, _ = go(tree)
    folder = run.stage_folder("embed")
    whole = contents(folder)
    assert len(whole) == 3 * 3
    assert go(tree)[1]["embed"] == "skip"
    # Killed after the states of a shard were written, before its index was.
    (folder / "manifest.json").unlink()
    (folder / "part-poor-0000005-0000010.parquet").unlink()
    (folder / "part-poor-0000005-0000010.npy").write_bytes(b"half")
    (folder / "part-good-0000099-0000100.npy").write_bytes(b"of another plan")
    assert go(tree)[1]["embed"] == "resume"
    assert contents(folder) == whole
    (folder / "part-good-0000000-0000005.npy").unlink()
    assert go(tree)[1]["embed"] == "resume"
    assert contents(folder) == whole


def test_answers_matter_where_they_are_embedded_alone(tree: dict[str, Any], go: Any) -> None:
    go(tree)
    assert go(tree, "stages.generate.long.samples=1")[1]["embed"] == "run"
    tree["stages"][2]["texts"] = ["option"]
    go(tree)
    assert go(tree, "stages.generate.long.samples=1")[1]["embed"] == "skip"
    tree["stages"][1:] = reversed(tree["stages"][1:])  # then it may also come first
    assert go(tree)[1]["embed"] == "skip"


def test_only_settings_that_matter_compute_again(tree: dict[str, Any], go: Any) -> None:
    go(tree)
    assert go(tree, "stages.embed.shard_size=3")[1]["embed"] == "skip"
    run, actions = go(tree, "stages.embed.dtype=float32", "stages.embed.splits=[dev]")
    assert actions["embed"] == "run"
    store = StateStore(run.stage_folder("embed"))
    dev = {q.id for q in read_parts(run.stage_folder("prepare"), Question) if q.split == "dev"}
    assert {key.question_id for key in store.texts("good")} == dev
    slots = ["stages.embed.states.pooling=slots", "stages.embed.states.slots=3"]
    run, _ = go(tree, *slots, "stages.embed.question_encoder=null")
    store = StateStore(run.stage_folder("embed"))
    assert store.experts == ("good", "poor") and store.slots("poor") == 3


def test_forced_states_are_the_same(tree: dict[str, Any], go: Any) -> None:
    run, _ = go(tree)
    before = contents(run.stage_folder("embed"))
    _, actions = go(tree, selection=Selection(only=("embed",), force=True))
    assert actions["embed"] == "run"
    assert contents(run.stage_folder("embed")) == before


def test_what_cannot_work_is_said_before_anything_runs(tree: dict[str, Any], save_recipe) -> None:
    tree["stages"] = [tree["stages"][0], tree["stages"][2]]
    with pytest.raises(ConfigError, match=r"embed\.texts.*no answers to embed"):
        stages_of(open_recipe(save_recipe(tree)))
    tree["stages"][1]["texts"] = ["option", "option"]
    with pytest.raises(ConfigError, match="stands twice"):
        open_recipe(save_recipe(tree))
    tree["stages"][1]["texts"] = ["option"]
    tree["experts"][0]["name"] = "question-encoder"
    with pytest.raises(ConfigError, match="encoder of the questions"):
        stages_of(open_recipe(save_recipe(tree)))
