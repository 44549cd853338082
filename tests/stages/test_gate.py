"""Stages train-gate and gate, and their methods in evaluate and report, on fake experts."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import QUESTION_ENCODER as ENCODER
from blender_med.records import Answer, Candidate, FusedChoice, HiddenState, Route
from blender_med.stages.base import Run
from blender_med.stages.combining import combining_methods
from blender_med.stages.gate import Cost, Gate
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline, stages_of
from blender_med.store.shards import read_parts

FUSER: dict[str, Any] = {
    "name": "fused",
    "embedding_fuser": {"width": 8, "layers": 1, "attention_heads": 2},
    "training": {"epochs": 2, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 0.05},
}


def exam(folder: Path, encoder: Path) -> dict[str, Any]:
    """Sixty exam questions, a fuser of two experts with two seeds, and a probe of one."""
    rows = [
        {"id": f"e{i}", "question": f"What is condition number {i}?", "group": f"g{i}",
         "options": ["red", "green", "blue", "black"][: 2 + i % 3], "answer": i * 7 % (2 + i % 3),
         "context": "" if i % 2 else "the liver"}
        for i in range(60)
    ]  # fmt: skip
    data = folder / "exam.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    probe = copy.deepcopy(FUSER) | {"name": "probe", "experts": ["poor"]}
    probe["embedding_fuser"]["gate_input"] = "experts"
    accuracies = {"good": (0.8, 8), "poor": (0.3, 6)}
    return {
        "name": "exam",
        "output_dir": str(folder / "runs"),
        "dataset": {"type": "jsonl", "path": str(data), "columns": {"group": "group"}},
        "experts": [
            {"name": name, "engine": "fake",
             "engine_options": {"accuracy": accuracy, "hidden_size": width}}
            for name, (accuracy, width) in accuracies.items()
        ],
        "stages": [
            {"type": "prepare", "splits": {"train": 0.5, "dev": 0.2, "test": 0.3}},
            {"type": "generate", "mcq": {"protocols": ["lm_eval"]}},
            "score",
            {"type": "embed", "question_encoder": str(encoder), "shard_size": 25},
            {"type": "train-gate", "fusers": [FUSER, probe], "seeds": [3, 4]},
            {"type": "gate", "shard_size": 25, "fusers": [
                {"trained": "fused", "routed": True}, "probe",
                {"name": "best_fuser", "among": ["fused", "probe"]},
                {"name": "likeliest", "among": ["fused", "probe"], "choose_by": "log_likelihood"},
                {"name": "mean", "mean_of": ["fused", "probe"]}]},
            "evaluate",
            {"type": "report", "resamples": 200, "page": False,
             "rivals": ["best_single", "majority_vote", "probe"]},
        ],
    }  # fmt: skip


@pytest.fixture
def tree(tiny_encoder: Path, tmp_path: Path) -> dict[str, Any]:
    return exam(tmp_path, tiny_encoder)


@pytest.fixture(scope="module")
def run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the whole exam, to be read."""
    folder = tmp_path_factory.mktemp("exam")
    recipe = folder / "exam.yaml"
    recipe.write_text(yaml.safe_dump(exam(folder, tiny_encoder), sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLENDER_MED_CACHE", str(folder / "cache"))
        opened = open_recipe(recipe)
        run_pipeline(opened, LocalExecutor(ProgressDisplay(Console(), quiet=True)), Selection())
    return opened


def table(run: Any, name: str) -> list[dict[str, str]]:
    file = run.stage_folder("report") / name
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def choices_of(run: Any, method: str) -> dict[str, FusedChoice]:
    rows = read_parts(run.stage_folder("gate"), FusedChoice)
    return {row.question_id: row for row in rows if row.method == method}


def answers_of(run: Any, method: str) -> dict[str, Answer]:
    rows = read_parts(run.stage_folder("evaluate"), Answer)
    return {row.question_id: row for row in rows if row.method == method}


def test_fused_choices_are_methods_of_the_run(run) -> None:
    fused = choices_of(run, "fused")
    questions = {q.id: q for q in run.questions}
    assert fused.keys() == questions.keys()
    # The mean of both seeds, over as many options as the question has.
    models = [EmbeddingFuser.from_pretrained(run.stage_folder("train-gate") / f"fused-seed{s}")
              for s in (3, 4)]  # fmt: skip
    assert [m.config.experts for m in models] == [["good", "poor"]] * 2
    for question in questions.values():
        own = fused[question.id]
        assert len(own.probabilities) == len(question.options)
        assert sum(own.probabilities) == pytest.approx(1) and sum(own.weights) == pytest.approx(1)
        assert own.choice_index == int(np.argmax(own.probabilities))
        assert len(own.seed_choices) == 2
    spent: dict[str, int] = {}
    for row in read_parts(run.stage_folder("embed"), HiddenState):
        if row.text.startswith("option:"):
            spent[row.question_id] = spent.get(row.question_id, 0) + row.tokens
    answers = answers_of(run, "fused")
    for key, answer in answers.items():
        assert answer.choice_index == fused[key].choice_index
        assert answer.text == questions[key].options[answer.choice_index]
        assert answer.confidence == pytest.approx(max(fused[key].probabilities))
        assert answer.experts_used == ("good", "poor") and answer.tokens == spent[key] > 0
    assert {a.experts_used for a in answers_of(run, "probe").values()} == {("poor",)}


def test_routing_takes_the_own_answer_of_the_expert_with_most_weight(run) -> None:
    own = {
        (c.question_id, c.expert): c for c in read_parts(run.stage_folder("generate"), Candidate)
    }
    routed = answers_of(run, "fused-routed")
    for key, choice in choices_of(run, "fused").items():
        expert = choice.experts[int(np.argmax(choice.weights))]
        candidate = own[key, expert]
        assert routed[key].choice_index == candidate.choice_index
        assert routed[key].experts_used == (expert,)
        assert routed[key].tokens == candidate.prompt_tokens + candidate.completion_tokens
        assert routed[key].seconds >= choice.routing_seconds


def test_the_best_fuser_is_chosen_on_dev(run) -> None:
    dev = {q.id: q.answer_index for q in run.questions if q.split == "dev"}
    accuracy = {
        name: np.mean([c.choice_index == dev[k] for k, c in choices_of(run, name).items()
                       if k in dev])
        for name in ("fused", "probe")
    }  # fmt: skip
    best = max(accuracy, key=lambda name: accuracy[name])
    assert {c.fuser for c in choices_of(run, "best_fuser").values()} == {best}
    assert any(note.startswith(f"best_fuser: {best}, with accuracy") for note in run.notes)
    assert {r["fuser"] for r in table(run, "gating.csv") if r["method"] == "best_fuser"} == {best}


def test_the_best_fuser_may_be_chosen_by_likelihood(run) -> None:
    dev = {q.id: q.answer_index for q in run.questions if q.split == "dev"}
    value = {
        name: np.mean([np.log(c.probabilities[dev[k]]) for k, c in choices_of(run, name).items()
                       if k in dev])
        for name in ("fused", "probe")
    }  # fmt: skip
    best = max(value, key=lambda name: value[name])
    assert {c.fuser for c in choices_of(run, "likeliest").values()} == {best}
    note = f"likeliest: {best}, with log-likelihood {value[best]:.3f} on dev"
    assert note in run.notes


def test_the_mean_of_fusers_averages_probabilities_and_weights(run) -> None:
    fused, probe = choices_of(run, "fused"), choices_of(run, "probe")
    means = choices_of(run, "mean")
    assert means.keys() == fused.keys()
    for key, choice in means.items():
        expected = np.mean([fused[key].probabilities, probe[key].probabilities], axis=0)
        assert choice.probabilities == pytest.approx(expected)
        assert choice.choice_index == int(np.argmax(expected)) and choice.fuser == "mean"
        assert choice.seed_choices == () and choice.experts_read == fused[key].experts
        weights = dict(zip(fused[key].experts, fused[key].weights, strict=True))
        expected = {"good": weights["good"] / 2, "poor": (weights["poor"] + 1) / 2}
        assert dict(zip(choice.experts, choice.weights, strict=True)) == pytest.approx(expected)
        assert choice.tokens == fused[key].tokens  # what both read is read once


def test_the_tables_say_how_sure_the_fusers_are_and_whom_they_beat(run) -> None:
    [row] = [
        r for r in table(run, "methods.csv") if r["method"] == "fused" and r["split"] == "test"
    ]
    test = [q for q in run.questions if q.split == "test"]
    right = [answers_of(run, "fused")[q.id].choice_index == q.answer_index for q in test]
    assert float(row["accuracy"]) == pytest.approx(np.mean(right))
    assert float(row["risk"]) == pytest.approx(1 - np.mean(right))
    assert 0 <= float(row["ece"]) <= 1 and int(row["confidence_n"]) == len(test)
    [duel] = [r for r in table(run, "rivals.csv")
              if (r["method"], r["rival"], r["split"]) == ("fused", "probe", "test")]  # fmt: skip
    other = [answers_of(run, "probe")[q.id].choice_index == q.answer_index for q in test]
    assert int(duel["wins"]) == sum(a > b for a, b in zip(right, other, strict=True))
    assert int(duel["losses"]) == sum(a < b for a, b in zip(right, other, strict=True))
    [gating] = [r for r in table(run, "gating.csv")
                if (r["method"], r["split"]) == ("fused", "test")]  # fmt: skip
    seeds = [
        np.mean([choices_of(run, "fused")[q.id].seed_choices[i] == q.answer_index for q in test])
        for i in (0, 1)
    ]
    assert [float(gating["seed_0"]), float(gating["seed_1"])] == pytest.approx(seeds)
    assert float(gating["seed_deviation"]) == pytest.approx(np.std(seeds, ddof=1))
    assert float(gating["weight_good"]) + float(gating["weight_poor"]) == pytest.approx(1)


@pytest.mark.parametrize(("routed", "saved"), [(True, Cost(20, 1.5)), (False, Cost())])
def test_an_expert_without_states_was_spared_only_behind_a_route(routed, saved) -> None:
    """It then saves what it costs on average; else it could not read the question."""
    gate = Gate.__new__(Gate)
    gate.run = SimpleNamespace(recipe=SimpleNamespace(stands_before=lambda *names: routed))
    others = {"r": {"b": Cost(10, 1.0)}, "s": {"b": Cost(30, 2.0)}}
    vars(gate)["_costs"] = {"q": {"a": Cost(7, 0.5)}} | others
    chosen = SimpleNamespace(probabilities=np.array([0.6, 0.4]), weights=np.array([1.0, 0.0]))
    example, fuser = SimpleNamespace(question_id="q"), SimpleNamespace(method="fused")
    choice = gate._record(fuser, ("a", "b"), example, [chosen])
    assert (choice.tokens, choice.seconds) == (7, 0.5)
    assert (choice.saved_tokens, choice.saved_seconds) == saved
    assert choice.experts_read == ("a",)


def test_an_expert_whose_states_the_gate_reads_is_not_spared() -> None:
    gate = Gate.__new__(Gate)
    gate.run = SimpleNamespace(recipe=SimpleNamespace(stands_before=lambda *names: False))
    vars(gate)["_costs"] = {"q": {"a": Cost(7, 0.5), "b": Cost(5, 0.25), ENCODER: Cost(0, 4.0)}}
    chosen = SimpleNamespace(probabilities=np.array([0.6, 0.4]), weights=np.array([1.0, 0.0]))
    example, fuser = SimpleNamespace(question_id="q"), SimpleNamespace(method="fused")
    both = ("a", "b")
    choice = gate._record(fuser, both, example, [chosen], both, is_routed=False)
    assert (choice.tokens, choice.seconds, choice.routing_seconds) == (12, 0.75, 0.0)
    assert (choice.saved_tokens, choice.experts_read) == (0, both)
    spared = gate._record(fuser, both, example, [chosen])
    assert (spared.tokens, spared.seconds, spared.saved_tokens) == (7, 4.5, 5)


def test_the_best_of_probes_is_no_ensemble(tree, save_recipe) -> None:
    gate = tree["stages"][5]
    other = copy.deepcopy(tree["stages"][4]["fusers"][1]) | {"name": "other", "experts": ["good"]}
    tree["stages"][4]["fusers"].append(other)
    twin = copy.deepcopy(other) | {"name": "twin"}
    tree["stages"][4]["fusers"].append(twin)
    gate["fusers"] += [
        "other",
        "twin",
        {"name": "best_probe", "among": ["probe", "other"]},
        {"name": "twins", "mean_of": ["other", "twin"]},
        {"name": "both", "mean_of": ["other", "probe"]},
        {"name": "other_probe", "among": ["probe", "other"], "choose_by": "log_likelihood"},
        {"name": "bests", "mean_of": ["best_probe", "other_probe"]},
    ]
    combining = combining_methods(open_recipe(save_recipe(tree)).recipe)
    expected = {"fused", "fused-routed", "best_fuser", "likeliest", "mean", "both", "bests"}
    assert set(combining) == expected


def test_only_what_changed_is_done_again(tree, go) -> None:
    run, _ = go(tree)
    folder = run.stage_folder("gate")
    whole = [p.read_bytes() for p in sorted(folder.glob("part-*.parquet"))]
    assert set(go(tree)[1].values()) == {"skip"}
    (folder / "manifest.json").unlink()
    (folder / "part-best_fuser-0000025-0000050.parquet").unlink()
    assert go(tree)[1]["gate"] == "resume"
    assert [p.read_bytes() for p in sorted(folder.glob("part-*.parquet"))] == whole
    actions = go(tree, "stages.train-gate.fusers.probe.training.epochs=1")[1]
    assert (actions["embed"], actions["train-gate"], actions["gate"]) == ("skip", "run", "run")


def test_a_fuser_of_another_run_is_applied(run, tree, go) -> None:
    folder = str(run.stage_folder("train-gate") / "fused-seed3")
    tree["name"] = "second"
    tree["stages"] = [*tree["stages"][:4], *tree["stages"][5:7]]
    tree["stages"][4] = {"type": "gate", "fusers": [{"name": "old", "model": folder}]}
    second, _ = go(tree)
    assert {a.method for a in choices_of(second, "old").values()} == {"old"}
    assert len(answers_of(second, "old")) == 60
    tree["experts"][1]["engine_options"]["hidden_size"] = 7
    with pytest.raises(ConfigError, match=r"gate\.fusers\.0.*width 6 of 'poor'.*7"):
        go(tree)


def test_one_recipe_stands_for_several_fusers(tree, save_recipe) -> None:
    sparse = {"mode": "refined", "gate": {"type": "noisy_topk", "k": 1}}
    changed = {"recipe": "embedding-mcq", "name": "other", "embedding_fuser": sparse}
    tree["stages"][4]["fusers"] = ["embedding-mcq", changed]
    tree["stages"][5]["fusers"] = ["embedding-mcq", "other", "other-seed4"]
    run = open_recipe(save_recipe(tree), ["stages.train-gate.fusers.other.training.epochs=7"])
    first, second = run.recipe.stage("train-gate").fusers
    assert (first.name, first.embedding_fuser.mode) == ("embedding-mcq", "weighted_sum")
    assert (second.embedding_fuser.mode, second.embedding_fuser.gate.k) == ("refined", 1)
    assert second.embedding_fuser.width == first.embedding_fuser.width
    assert (first.training.epochs, second.training.epochs) == (15, 7)
    assert [j.name for j in run.recipe.stage("train-gate").jobs][-1] == "other-seed4"
    stages_of(run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.gate.fusers=[fusd]", "trains no such fuser.*did you mean 'fused'"),
        ("stages.gate.fusers=[fused, {name: b, among: [probe]}]", "no such fuser.*stand before"),
        ("stages.gate.fusers=[{trained: fused, name: majority_vote}]", "another kind"),
        ("stages.gate.fusers=[fused, fused]", "stands twice"),
        ("stages.gate.fusers=[{model: ./nowhere, name: x}]", "no such model"),
        ("stages.gate.fusers=[{name: x}]", "exactly one of 'trained', 'model', 'among' and"),
        ("stages.gate.fusers=[fused, {name: m, mean_of: [fused, x]}]", "mean_of.*stand before"),
        ("stages.gate.fusers=[fused, {name: m, mean_of: [fused, fused]}]", "stands twice"),
        ("stages.gate.fusers=[{trained: fused, choose_by: accuracy}]", "leave it out"),
        ("stages.train-gate.seeds=[1, 1]", "stands twice"),
        ("stages.train-gate.fusers.probe.experts=[pooor]", "no such expert.*did you mean 'poor'"),
        ("stages.train-gate.fusers.fused.embedding_fuser.gate={type: topk_softmax, k: 0}", "k"),
        ("stages.embed.texts=[question]", "add 'option' to 'texts'"),
        ("stages.embed.splits=[train, test]", "leaves out split dev"),
        ("stages.embed.question_encoder=null", "gate_input: experts"),
        ("stages.generate.mcq.protocols=[generative]", "add lm_eval"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    tree, save_recipe, override, message
) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(tree), [override]))


def test_a_gate_of_more_experts_than_there_are_is_refused(tree, go) -> None:
    gate = "stages.train-gate.fusers.fused.embedding_fuser.gate={type: noisy_topk, k: 3}"
    with pytest.raises(BlenderMedError, match=r"gate\.k.*only 2 experts"):
        go(tree, gate)


def routed_tree(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Only the expert that the gate of a trained fuser chooses runs, and is embedded."""
    tree["name"] = "routed"
    prepare, generate, score, embed, *_ = tree["stages"]
    tree["stages"] = [
        prepare,
        {"type": "route", "fuser": str(folder), "question_encoder": embed["question_encoder"]},
        generate,
        score,
        embed,
        {"type": "gate", "fusers": [{"name": "fused", "model": str(folder)}]},
        {"type": "evaluate", "methods": ["routed", "fused"]},
        {"type": "report", "resamples": 200, "page": False},
    ]
    return tree


def test_behind_a_route_only_the_chosen_experts_run(tree, go) -> None:
    sparse = "stages.train-gate.fusers.fused.embedding_fuser.gate={type: topk_softmax, k: 1}"
    whole, _ = go(tree, sparse)
    folder = whole.stage_folder("train-gate") / "fused-seed3"
    everyone = {(c.question_id, c.expert): c
                for c in read_parts(whole.stage_folder("generate"), Candidate)}  # fmt: skip
    routed = routed_tree(copy.deepcopy(tree), folder)
    run, _ = go(routed)
    routes = {r.question_id: r for r in read_parts(run.stage_folder("route"), Route)}
    own = {
        (c.question_id, c.expert): c for c in read_parts(run.stage_folder("generate"), Candidate)
    }
    assert own.keys() == {(q.id, routes[q.id].experts[0]) for q in run.questions}
    assert all(c.option_logprobs == everyone[key].option_logprobs for key, c in own.items())
    states = read_parts(run.stage_folder("embed"), HiddenState)
    embedded = {(r.question_id, r.expert) for r in states if r.expert != "question-encoder"}
    assert embedded == own.keys()
    used = {expert for _, expert in own}
    answers, fused = answers_of(run, "routed"), choices_of(run, "fused")
    for key, route in routes.items():
        [expert] = route.experts
        assert answers[key].choice_index == own[key, expert].choice_index
        assert fused[key].experts[int(np.argmax(fused[key].weights))] == expert
    cost = {r["method"]: r for r in table(run, "cost.csv") if r["split"] == "test"}
    spent = sum(own[q.id, routes[q.id].experts[0]].prompt_tokens for q in run.questions
                if q.split == "test")  # fmt: skip
    assert int(cost["routed"]["tokens"]) == spent
    assert (cost["routed"].get("saved_tokens", "") != "") == (len(used) > 1)
    assert go(routed)[1]["generate"] == "skip"


def test_a_route_among_other_experts_is_refused(run, tree, go) -> None:
    probe = run.stage_folder("train-gate") / "fused-seed3"
    routed = routed_tree(copy.deepcopy(tree), probe)
    routed["experts"] = routed["experts"][:1]
    with pytest.raises(ConfigError, match="chooses among other experts"):
        go(routed)
    routed = routed_tree(copy.deepcopy(tree), run.stage_folder("train-gate") / "probe-seed3")
    routed["experts"] = routed["experts"][1:]
    with pytest.raises(ConfigError, match="can spare none"):
        go(routed)
