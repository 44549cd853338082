"""Examples of a fuser, from a run and from a file."""

from __future__ import annotations

import json

import pytest

from blender_med.errors import ConfigError, DataError
from blender_med.records import Candidate, Question, Ranking, Score
from blender_med.store.manifest import Manifest, write_manifest
from blender_med.store.shards import part_path, write_part
from blender_med.training.config import TrainingData
from blender_med.training.fuser_config import ShownCandidates
from blender_med.training.fuser_examples import (
    load_fuser_examples,
    metric_values,
    ranker_values,
)

BY_METRIC = ShownCandidates(metric="rougeL")
BY_RANKER = ShownCandidates(ranker="bm25")


def _questions() -> list[Question]:
    return [
        Question(
            id=f"{split}-{i}", dataset="d", split=split, task="long",
            question=f"What is {i}?", reference="" if i == 2 else f"It is {i}.",
        )
        for split in ("train", "dev", "test")
        for i in range(3)
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Candidates "low" and "high" by ROUGE-L, which bm25 ranks the other way round."""
    questions = _questions()
    candidates = [
        Candidate(q.id, expert, 0, f"{expert} of {q.id}")
        for q in questions
        for expert in ("low", "high")
    ]
    scores = [
        Score(c.question_id, c.expert, c.sample, "rougeL", float(c.expert == "high"))
        for c in candidates
    ]
    keys = ("low#0", "high#0")
    rankings = [Ranking(q.id, "bm25", keys, (2.0, 1.0), (1, 2)) for q in questions]
    stages = {"prepare": questions, "generate": candidates, "score": scores, "rank": rankings}
    for stage, records in stages.items():
        write_part(part_path(tmp_path / stage, "0"), records, type(records[0]))
        write_manifest(tmp_path / stage, _manifest(stage))
    return tmp_path


def _manifest(stage: str) -> Manifest:
    empty = {"identity": {}, "inputs": {}, "parts": {}, "provenance": {}}
    return Manifest(stage=stage, fingerprint="f", rows=0, seconds=0, finished="now", **empty)


def test_a_run_gives_its_train_and_dev_questions_best_candidates_first(run) -> None:
    found = load_fuser_examples(TrainingData(run=str(run)), BY_METRIC)
    assert [e.question_id for e in found.train] == ["train-0", "train-1"]
    assert [e.question_id for e in found.dev] == ["dev-0", "dev-1"]
    assert found.train[0].candidates == ("high of train-0", "low of train-0")
    assert found.train[0].target == "It is 0."
    # Questions of the test split do not count.
    assert found.dropped == {"questions without a reference": 2}
    by_ranker = load_fuser_examples(TrainingData(run=str(run)), BY_RANKER)
    assert by_ranker.train[0].candidates == ("low of train-0", "high of train-0")
    assert by_ranker.content_sha256() != found.content_sha256()


def test_an_unfinished_stage_is_named(run) -> None:
    (run / "rank" / "manifest.json").unlink()
    load_fuser_examples(TrainingData(run=str(run)), BY_METRIC)
    with pytest.raises(ConfigError, match="stage 'rank' of this run is missing"):
        load_fuser_examples(TrainingData(run=str(run)), BY_RANKER)


def test_a_file_gives_what_its_scores_order(tmp_path) -> None:
    rows = [
        {
            "id": str(i), "instruction": "name it", "input": f"thing {i}", "output": f"name {i}",
            "candidates": [
                {"model": m, "text": f"{m} {i}", "scores": {"goodness": v}}
                for m, v in (("a", 0.1), ("b", 0.9))
            ],
        }
        for i in range(20)
    ]  # fmt: skip
    (tmp_path / "candidates.json").write_text(json.dumps(rows))
    data = TrainingData(candidates=str(tmp_path / "candidates.json"))
    found = load_fuser_examples(data, ShownCandidates(metric="goodness"))
    assert len(found.train) + len(found.dev) == 20
    example = next(e for e in (*found.train, *found.dev) if e.target == "name 3")
    assert (example.instruction, example.input) == ("name it", "thing 3")
    assert example.candidates == ("b 3", "a 3")
    with pytest.raises(DataError, match="did you mean 'goodness'"):
        load_fuser_examples(data, ShownCandidates(metric="goodnes"))
    with pytest.raises(ConfigError, match=r"'candidates\.ranker': a file has no rankings"):
        load_fuser_examples(data, BY_RANKER)


def test_data_without_a_reference_says_what_is_missing(tmp_path) -> None:
    rows = [
        {"id": str(i), "instruction": "name it", "input": "", "output": "",
         "candidates": [{"model": "a", "text": "a", "scores": {"goodness": 1.0}}]}
        for i in range(20)
    ]  # fmt: skip
    (tmp_path / "candidates.json").write_text(json.dumps(rows))
    data = TrainingData(candidates=str(tmp_path / "candidates.json"))
    with pytest.raises(DataError):
        load_fuser_examples(data, ShownCandidates(metric="goodness"))


def test_what_orders_nothing_is_an_error_only_where_there_is_something() -> None:
    assert metric_values([], "rougeL") == {}
    assert ranker_values([], "bm25") == {}
    with pytest.raises(DataError, match="no candidate has a score of the metric"):
        metric_values([Score("q", "e", 0, "chrf", 1.0)], "rougeL")
    with pytest.raises(DataError, match="did you mean 'bm25'"):
        ranker_values([Ranking("q", "bm25", ("e#0",), (1.0,), (1,))], "bm2")


def test_ranks_become_values_of_which_the_higher_is_better() -> None:
    ranking = Ranking("q", "bm25", ("a#0", "b#0", "c#0"), (1.0, 3.0, 1.0), (2, 1, 2))
    values = ranker_values([ranking], "bm25")
    assert values == {("q", "a#0"): -2.0, ("q", "b#0"): -1.0, ("q", "c#0"): -2.0}
