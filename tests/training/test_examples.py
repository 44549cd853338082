"""Examples of a job come from a finished run or from a file of scored candidates."""

import json
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import ConfigError, DataError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.records import Candidate, Question, Score
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline
from blender_med.training.config import TrainingData
from blender_med.training.examples import load_examples, split_examples

from .conftest import toy_examples


def _run(path: Path, *stages: str) -> Path:
    from rich.console import Console

    run = open_recipe(path)
    selection = Selection(only=stages or None)
    run_pipeline(run, LocalExecutor(ProgressDisplay(Console(), quiet=True)), selection)
    return run.folder


def test_a_run_gives_its_train_and_dev_questions(recipe_tree, save_recipe) -> None:
    recipe_tree["stages"][0]["splits"] = {"train": 0.5, "dev": 0.2, "test": 0.3}
    folder = _run(save_recipe(recipe_tree))
    found = load_examples(TrainingData(run=str(folder)), ["rougeL", "chrf"])
    assert found.train
    assert found.dev
    # 20 long questions with two experts and two samples; the others are multiple choice.
    assert all(2 <= len(e.candidates) <= 4 for e in found.train)
    assert {e.labels.shape[1] for e in found.train} == {2}
    assert len(found.train) + len(found.dev) < 20
    assert "demo" in found.source


def test_a_run_without_train_questions_says_how_to_get_some(recipe_tree, save_recipe) -> None:
    folder = _run(save_recipe(recipe_tree))
    with pytest.raises(DataError, match=r"no train question to learn from.*splits: \{train"):
        load_examples(TrainingData(run=str(folder)), ["rougeL"])


def test_an_unfinished_run_is_refused(recipe_tree, save_recipe) -> None:
    folder = _run(save_recipe(recipe_tree), "prepare", "generate")
    with pytest.raises(ConfigError, match="stage 'score' of this run is missing"):
        load_examples(TrainingData(run=str(folder)), ["rougeL"])


def _mixinstruct(path: Path, rows: int, **changes: Any) -> str:
    lines = []
    for i in range(rows):
        candidates = [
            {"model": m, "text": f"{m} says {i}", "scores": {"bartscore": -v, "bleu": v}}
            for m, v in (("a", 1.0), ("b", 2.0), ("c", 3.0))
        ]
        row = {"id": str(i), "instruction": f"Explain {i}", "input": "", "output": "x"}
        lines.append(json.dumps(row | {"candidates": candidates} | changes))
    path.write_text("\n".join(lines))
    return str(path)


def test_a_file_of_one_split_gives_a_fifth_to_dev(tmp_path) -> None:
    path = _mixinstruct(tmp_path / "candidates.jsonl", 100)
    found = load_examples(TrainingData(candidates=path), ["bartscore"])
    assert len(found.train) + len(found.dev) == 100
    assert 8 <= len(found.dev) <= 35
    assert found.train[0].labels.tolist() == [[-1.0], [-2.0], [-3.0]]


def test_a_metric_that_the_file_lacks_is_named(tmp_path) -> None:
    path = _mixinstruct(tmp_path / "candidates.jsonl", 5)
    with pytest.raises(DataError, match=r"'bleurt'.*label by: bartscore, bleu"):
        load_examples(TrainingData(candidates=path), ["bleurt"])


def _scored(values: dict[str, list[float]]) -> tuple[list[Question], list[Candidate], list[Score]]:
    questions = [Question(n, "d", n.partition("-")[0], "long", n, reference="r") for n in values]
    keys = [(q, i) for q, own in values.items() for i in range(len(own))]
    candidates = [Candidate(q, "e", i, f"text {i}") for q, i in keys]
    return questions, candidates, [Score(q, "e", i, "m", values[q][i]) for q, i in keys]


def test_labels_that_teach_nothing_leave_no_train_question() -> None:
    nan = float("nan")
    values = {
        "train-equal": [1.0, 1.0],
        "train-nan": [nan, nan],
        "train-one": [1.0],
        "dev-1": [1, 2],
    }
    with pytest.raises(DataError, match="no train question to learn from") as caught:
        split_examples(*_scored(values), ["m"], source="run x")
    for reason in ("1 questions whose candidates all have equal labels", "2 candidates without",
                   "1 questions without a labelled", "1 questions with one distinct"):  # fmt: skip
        assert reason in str(caught.value)


def test_no_usable_dev_question_is_an_error() -> None:
    with pytest.raises(DataError, match="no dev question to choose the best weights by"):
        split_examples(*_scored({"train-1": [1.0, 2.0]}), ["m"], source="run x")


def test_test_questions_are_never_learned_from() -> None:
    values = {name: [1.0, 2.0] for name in ("train-1", "dev-1", "test-1")}
    found = split_examples(*_scored(values), ["m"], source="run x")
    assert [e.question_id for e in (*found.train, *found.dev)] == ["train-1", "dev-1"]


def test_the_content_hash_sees_every_change() -> None:
    first = toy_examples(4, 2)
    assert first.content_sha256() == toy_examples(4, 2).content_sha256()
    moved = toy_examples(3, 3)
    assert first.content_sha256() != moved.content_sha256()
    assert first.content_sha256() != toy_examples(4, 2, tasks=2).content_sha256()
