from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from blender_med.errors import BlenderMedError, ConfigError, ExpertError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.experts.fake import FakeExpert
from blender_med.records import Candidate, Question
from blender_med.stages import generate
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, dry_run, open_run, run_pipeline, status
from blender_med.store.cache import cache_root
from blender_med.store.shards import part_paths, read_parts


class Recorder(LocalExecutor):
    """Runs locally and keeps which units it was asked for."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__(ProgressDisplay(Console(), quiet=True))
        self.units: dict[str, list[str]] = {}

    def execute(self, stage, units, total) -> None:
        self.units[stage.name] = [unit.name for unit in units]
        super().execute(stage, units, total)


def go(path, *overrides, selection=None):
    run = open_recipe(path, overrides)
    recorder = Recorder()
    plans = run_pipeline(run, recorder, selection or Selection())
    return run, {plan.name: plan.action for plan in plans}, recorder


def test_runs_all_stages_then_skips_all(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    run, actions, _ = go(path)
    assert set(actions.values()) == {"run"}
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    # 20 long questions x 2 samples and 20 mcq x 2 protocols, for each of two experts.
    assert len(candidates) == 2 * (20 * 2 + 20 * 2)
    assert {c.protocol for c in candidates} == {"lm_eval", "generative"}
    assert len({(c.question_id, c.expert, c.sample) for c in candidates}) == len(candidates)
    assert {q.split for q in run.questions} == {"dev", "test"}
    _, again, recorder = go(path)
    assert set(again.values()) == {"skip"}
    assert recorder.units == {}


def test_speed_only_change_skips_and_result_change_reruns(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    go(path)
    _, actions, _ = go(path, "stages.1.shard_size=5", "description=other")
    assert set(actions.values()) == {"skip"}
    _, actions, _ = go(path, "stages.1.long.samples=1")
    assert actions == {
        "prepare": "skip", "generate": "run", "score": "run", "evaluate": "run", "report": "run",
    }  # fmt: skip


def test_changed_data_reruns(recipe_tree, save_recipe, tmp_path) -> None:
    path = save_recipe(recipe_tree)
    go(path)
    data = tmp_path / "questions.jsonl"
    data.write_text(data.read_text().replace("number 4?", "number four?"))
    _, actions, _ = go(path)
    assert actions["prepare"] == "run"


def test_a_missing_shard_is_the_only_one_made_again(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    run, _, _ = go(path)
    before = list(read_parts(run.stage_folder("generate"), Candidate))
    lost = part_paths(run.stage_folder("generate"))[3]
    lost.unlink()
    _, actions, recorder = go(path, "stages.1.shard_size=3")
    assert actions["generate"] == "resume"
    assert recorder.units["generate"] == [lost.stem.removeprefix("part-")]
    assert list(read_parts(run.stage_folder("generate"), Candidate)) == before


def test_a_damaged_shard_is_made_again(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    run, _, _ = go(path)
    damaged = part_paths(run.stage_folder("score"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    _, actions, recorder = go(path)
    assert actions["score"] == "resume"
    assert len(recorder.units["score"]) == 1


def test_a_missing_model_is_found_before_the_first_stage(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    wanted = [
        "stages.score.metrics=[rougeL,bertscore_f1]",
        "stages.score.models.bertscore={model: nobody/nowhere, num_layers: 2}",
    ]
    with pytest.raises(BlenderMedError, match="nowhere") as caught:
        go(path, *wanted)
    assert caught.value.key == "score.models.bertscore.model"
    assert not open_recipe(path, ()).stage_folder("prepare").exists()


def test_failed_stage_continues_where_it_failed(recipe_tree, save_recipe) -> None:
    broken = copy.deepcopy(recipe_tree)
    broken["experts"][1]["engine_options"]["fail_after"] = 30
    with pytest.raises(ExpertError, match="failed after 30"):
        go(save_recipe(broken))
    run = open_recipe(save_recipe(broken))
    states = {plan.name: plan.action for plan in status(run)}
    assert states["prepare"] == "skip"
    assert states["generate"] == "resume"
    assert states["score"] == "run"


def test_generation_cache_survives_a_lost_run_directory(
    recipe_tree, save_recipe, monkeypatch
) -> None:
    path = save_recipe(recipe_tree)
    run, _, _ = go(path)
    before = list(read_parts(run.stage_folder("generate"), Candidate))
    monkeypatch.setattr(FakeExpert, "_request", lambda self: pytest.fail("the expert was asked"))
    cached, _, _ = go(path, "name=other")
    assert list(read_parts(cached.stage_folder("generate"), Candidate)) == before


def test_without_the_cache_none_is_made(recipe_tree, save_recipe) -> None:
    go(save_recipe(recipe_tree), "stages.generate.cache=false")
    assert not (cache_root() / "generations").exists()


def test_a_changed_parser_reads_generated_choices_again(
    recipe_tree, save_recipe, monkeypatch
) -> None:
    path = save_recipe(recipe_tree)
    go(path)
    monkeypatch.setattr(generate, "PARSER", generate.PARSER + 1)
    assert go(path)[1]["generate"] == "run"
    scored = ["stages.generate.mcq={}", "name=scored"]
    go(path, *scored)
    monkeypatch.setattr(generate, "PARSER", generate.PARSER + 1)
    assert go(path, *scored)[1]["generate"] == "skip"


def test_experts_side_by_side_give_the_same_candidates(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    run, _, _ = go(path)
    parallel, _, _ = go(path, "name=parallel", "stages.1.devices=['0','1']", "stages.1.cache=false")
    plain = read_parts(run.stage_folder("generate"), Candidate)
    side = read_parts(parallel.stage_folder("generate"), Candidate)
    assert [replace(c, seconds=0) for c in side] == [replace(c, seconds=0) for c in plain]


def test_selection(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    with pytest.raises(ConfigError, match="'prepare' has no results yet"):
        go(path, selection=Selection(only=("score",)))
    with pytest.raises(ConfigError, match="did you mean 'score'"):
        go(path, selection=Selection(only=("scores",)))
    go(path)
    _, actions, _ = go(path, selection=Selection(start="score", force=True))
    assert actions == {
        "prepare": "excluded", "generate": "excluded", "score": "run", "evaluate": "run",
        "report": "run",
    }  # fmt: skip


def test_results_of_another_recipe_are_named(recipe_tree, save_recipe, caplog) -> None:
    path = save_recipe(recipe_tree)
    go(path)
    others = ["dataset.limit=10", "stages.score.metrics=[rougeL, correct]", "seed=9"]
    only = Selection(only=("evaluate",))
    plans = {plan.name: plan for plan in dry_run(open_recipe(path, others), only)}
    assert plans["prepare"].reason == "its results are of other settings: dataset.limit, seed"
    assert plans["score"].reason == "its results are of other settings: metrics, seed"
    caplog.clear()
    go(path, *others, selection=only)
    assert "prepare is not selected, but its results are of other settings" in caplog.text
    caplog.clear()
    go(path, *others, selection=Selection(only=("report",)))
    assert "other settings" not in caplog.text


def test_dry_run_says_what_and_why_and_writes_nothing(recipe_tree, save_recipe) -> None:
    path = save_recipe(recipe_tree)
    run = open_recipe(path)
    plans = dry_run(run, Selection())
    assert [p.action for p in plans] == ["run"] * 5
    assert plans[0].reason == "no results yet"
    assert plans[0].rows == 40
    assert not run.folder.exists()
    go(path)
    plans = dry_run(open_recipe(path, ["stages.2.metrics=[rougeL, correct]"]), Selection())
    assert [p.action for p in plans] == ["skip", "skip", "run", "run", "run"]
    assert plans[2].reason == "its settings changed: metrics"


def test_status_and_reopen(recipe_tree, save_recipe) -> None:
    run, _, _ = go(save_recipe(recipe_tree))
    again = open_run(run.folder)
    assert again.recipe == run.recipe
    assert again.experts == run.experts
    assert {plan.action for plan in status(again)} == {"skip"}
    with pytest.raises(ConfigError, match="no run here"):
        open_run(run.folder.parent)


def test_malformed_rows_are_kept_and_counted(recipe_tree, save_recipe, tmp_path) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text(data.read_text() + '{"id": "broken"\n')
    run, _, _ = go(save_recipe(recipe_tree))
    assert len(run.questions) == 40
    text = (run.stage_folder("prepare") / "quarantine.csv").read_text()
    assert "questions.jsonl" in text
    assert any("1 malformed row" in note for note in run.notes)
    data.write_text(data.read_text().replace('{"id": "broken"\n', ""))
    go(save_recipe(recipe_tree))
    assert not (run.stage_folder("prepare") / "quarantine.csv").exists()


def test_questions_keep_their_group_in_one_split(recipe_tree, save_recipe) -> None:
    run, _, _ = go(save_recipe(recipe_tree))
    questions = list(read_parts(run.stage_folder("prepare"), Question))
    assert len(questions) == 40
    by_group: dict[str, set[str]] = {}
    for question in questions:
        by_group.setdefault(question.meta["group"], set()).add(question.split)
    assert all(len(splits) == 1 for splits in by_group.values())
