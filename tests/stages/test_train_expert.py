"""Stage train-expert: experts are made in the run and asked in the same run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from blender_med.errors import ConfigError, DataError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.experts.config import ExpertConfig
from blender_med.records import Candidate, Question
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, dry_run, open_run, run_pipeline, stages_of
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts

from ..training.fuser_toy import save_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model = save_llama(folder / "model", hidden_size=16, intermediate_size=16)
    tree = {"name": "tiny", "engine": "transformers", "model": str(model), "max_model_len": 250}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree | {"dtype": "float32"}))
    return file


def _job(base: Path, name: str, **top: Any) -> dict[str, Any]:
    training = {"max_steps": 1, "batch_size": 4, "precision": "float32", "report_to": []}
    tree = {"job": "finetune", "name": name, "base": str(base), "written_questions": 0}
    tree |= {"data": {"sources": [{"type": "jsonl", "columns": {"group": "group"}}]}}
    return tree | {"max_length": 200, "answer_length": 16, "training": training} | top


@pytest.fixture
def tree(recipe_tree: dict[str, Any], base: Path) -> dict[str, Any]:
    recipe_tree["dataset"]["documents"] = 0.4
    recipe_tree["experts"] = ["tuned", {"name": "other", "engine": "fake"}]
    recipe_tree["stages"] = [
        {"type": "prepare", "splits": {"dev": 0.4, "test": 0.6}},
        {"type": "train-expert", "experts": [_job(base, "tuned")]},
        {"type": "generate", "long": {"sampling": {"max_tokens": 4}}},
        {"type": "score", "metrics": ["rougeL"]},
        "evaluate",
        {"type": "report", "resamples": 100, "page": False},
    ]
    return recipe_tree


def _go(run: Run) -> dict[str, str]:
    executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
    return {plan.name: plan.action for plan in run_pipeline(run, executor, Selection())}


def test_an_expert_is_made_and_asked_in_one_run(tree, save_recipe) -> None:
    run = open_recipe(save_recipe(tree))
    plans = {plan.name: plan.action for plan in dry_run(run, Selection())}
    assert plans["generate"] == "run"  # though the expert is not there to be looked at
    assert set(_go(run).values()) == {"run"}
    folder = run.stage_folder("train-expert") / "tuned"
    assert (folder / "model.safetensors").is_file()
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    assert {c.expert for c in candidates} == {"tuned", "other"}
    revisions = {c.expert: c.model_revision for c in candidates}
    assert revisions["tuned"].startswith("sha256:")
    with (run.stage_folder("report") / "methods.csv").open(newline="") as file:
        assert "expert:tuned" in {row["method"] for row in csv.DictReader(file)}
    assert set(_go(open_recipe(save_recipe(tree))).values()) == {"skip"}
    assert [e.name for e in open_run(run.folder).experts] == ["tuned", "other"]


def test_only_documents_that_the_run_does_not_ask_about_are_learned(tree, save_recipe) -> None:
    from blender_med.training.expert_jobs import expert_task

    run = open_recipe(save_recipe(tree))
    executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
    run_pipeline(run, executor, Selection(only=("prepare",)))
    stage: Any = stages_of(run)[1]
    (job,) = stage.jobs
    task: Any = expert_task(job, asked=run.questions, datasets=run.recipe.dataset)
    learned = [e.question for e in (*task.examples.train, *task.examples.dev)]
    asked: list[Question] = list(run.questions)
    assert 8 <= len(asked) <= 24  # 40 documents of a question each
    assert len(learned) == 40 - len(asked)
    assert not {q.meta["group"] for q in learned} & {q.meta["group"] for q in asked}


def test_a_run_that_asks_everything_leaves_nothing_to_learn(tree, save_recipe) -> None:
    del tree["dataset"]["documents"]
    with pytest.raises(DataError, match=r"held out.*documents: 0.5"):
        _go(open_recipe(save_recipe(tree)))


def test_a_changed_setting_tunes_anew_and_a_speed_setting_does_not(tree, save_recipe) -> None:
    tree["stages"] = tree["stages"][:2]
    _go(open_recipe(save_recipe(tree)))
    same = "stages.train-expert.experts.tuned.training.micro_batch_size=2"
    assert _go(open_recipe(save_recipe(tree), [same]))["train-expert"] == "skip"
    other = "stages.train-expert.experts.tuned.lora.r=2"
    run = open_recipe(save_recipe(tree), [other])
    assert _go(run)["train-expert"] == "run"
    manifest = read_manifest(run.stage_folder("train-expert") / "tuned")
    assert manifest is not None
    assert manifest.identity["job"]["lora"]["r"] == 2


def test_experts_are_made_in_order(tree, save_recipe, base) -> None:
    merge = {"job": "merge", "name": "merged", "base": str(base), "method": "linear"}
    merge |= {"models": [{"expert": "tuned"}, {"expert": str(base)}]}
    tree["stages"][1]["experts"] = [merge, _job(base, "tuned")]
    with pytest.raises(ConfigError, match="starts from an expert that is made after it"):
        stages_of(open_recipe(save_recipe(tree)))
    tree["stages"][1]["experts"].reverse()
    tree["experts"] = ["merged", "tuned"]
    run = open_recipe(save_recipe(tree))
    stages_of(run)
    folder = run.stage_folder("train-expert")
    assert [Path(str(e.model)) for e in run.experts] == [folder / "merged", folder / "tuned"]


def test_an_expert_of_an_earlier_training_is_named_by_its_recipe(
    tree, save_recipe, base, tmp_path
) -> None:
    recipe = tmp_path / "earlier.yaml"
    recipe.write_text(yaml.safe_dump(_job(base, "earlier", output_dir=str(tmp_path / "models"))))
    tree["experts"] = [str(recipe)]
    del tree["stages"][1]
    run = open_recipe(save_recipe(tree))
    (expert,) = run.experts
    assert isinstance(expert, ExpertConfig)
    assert expert.model == str(tmp_path / "models" / "earlier")
    with pytest.raises(Exception, match=r"'earlier' is not made yet.*blender-med train"):
        _go(run)
