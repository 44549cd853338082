"""Stage rank: records, shards, and the rankers' rows in the reports."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blender_med.data.pairs import source_text
from blender_med.errors import ConfigError
from blender_med.rankers import confidence
from blender_med.rankers.mean import standard_scores
from blender_med.rankers.similarity import BM25Ranker
from blender_med.records import Answer, Candidate, Ranking
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.rank import stored_rankings
from blender_med.stages.runner import Selection, stages_of
from blender_med.store.shards import part_paths, read_parts


def _table(run, name: str) -> list[dict[str, str]]:
    with (run.stage_folder("report") / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _records(run) -> list[Ranking]:
    return [replace(r, seconds=0.0) for r in read_parts(run.stage_folder("rank"), Ranking)]


@pytest.fixture
def untrained(ranker_tree):
    """The pipeline with a ranker that needs no training."""
    del ranker_tree["stages"][3]
    ranker_tree["stages"][3] = {"type": "rank", "rankers": ["bm25"], "shard_size": 6}
    return ranker_tree


def test_a_trained_ranker_is_a_method_with_its_cost(ranker_tree, go) -> None:
    run, _ = go(ranker_tree)
    rankings = {name: list(own) for name, own in stored_rankings(run).items()}
    # A ranker trained on a long-form metric ranks long questions; bm25 all of them, the
    # multiple-choice ones under either protocol.
    assert len(rankings["pairranker"]) == 20
    assert len(rankings["bm25"]) == 20 + 2 * 20
    for ranking in rankings["pairranker"]:
        n = len(ranking.candidates)
        assert len(ranking.scores) == len(ranking.ranks) == n == 4
        assert [len(row) for row in ranking.pairwise_logits] == [n] * n
        assert ranking.comparisons <= n * (n - 1)
        assert ranking.tokens > 0
        assert ranking.seconds > 0
    assert {r.protocol for r in rankings["bm25"]} == {"lm_eval", "generative"}
    assert {r.pairwise_logits for r in rankings["bm25"]} == {None}

    rows = [r for r in _table(run, "methods.csv") if r["split"] == "test" and r["task"] == "long"]
    methods = [row["method"] for row in rows]
    assert methods.index("pairranker") + 1 == methods.index("bm25") < methods.index("oracle")
    costs = {(r["split"], r["task"], r["method"]): r for r in _table(run, "cost.csv")}
    ranked, read = costs["test", "long", "pairranker"], costs["test", "long", "mbr"]
    own = [r for r in rankings["pairranker"] if r.question_id in _ids(run, "test")]
    assert int(ranked["comparisons"]) == sum(r.comparisons for r in own)
    assert int(ranked["tokens"]) == int(read["tokens"]) + sum(r.tokens for r in own)
    assert float(ranked["seconds"]) > float(read["seconds"])
    assert read["comparisons"] == ""


def test_a_mean_takes_rankings_that_are_there_and_asks_for_others(
    untrained, go, monkeypatch
) -> None:
    mean = {"type": "mean", "of": ["bm25", "again"]}
    again = {"type": "bm25", "name": "again"}
    asked: list[str] = []
    real = BM25Ranker.rank
    monkeypatch.setattr(
        BM25Ranker, "rank", lambda self, *a, **k: asked.append("") or real(self, *a, **k)
    )
    made = []
    for rankers in (["bm25", again, mean], [mean, "bm25", again]):
        untrained["stages"][3]["rankers"] = rankers
        asked.clear()
        run, _ = go(untrained)
        made.append([r for r in _records(run) if r.method == "mean"])
        shards = len(part_paths(run.stage_folder("rank"))) // 3
        assert len(asked) == shards * (2 if rankers[-1] is mean else 4)
    assert made[0] == made[1] and made[0]


def test_a_mean_of_rankers_ranks_what_all_of_them_rank_and_pays_for_them(ranker_tree, go) -> None:
    mean = {"type": "mean", "name": "both", "of": ["bm25", "pairranker"], "weights": [1, 3]}
    ranker_tree["stages"][4]["rankers"] = ["pairranker", "bm25", mean]
    run, _ = go(ranker_tree)
    rankings = {name: list(own) for name, own in stored_rankings(run).items()}
    parts = {
        n: {(r.question_id, r.protocol): r for r in rankings[n]} for n in ("bm25", "pairranker")
    }
    assert len(rankings["both"]) == len(rankings["pairranker"]) == 20
    for own in rankings["both"]:
        bm25, pairs = (parts[name][own.question_id, own.protocol] for name in parts)
        expected = (standard_scores(bm25.scores) + 3 * standard_scores(pairs.scores)) / 4
        assert own.scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert own.comparisons == pairs.comparisons
    methods = [row["method"] for row in _table(run, "methods.csv") if row["split"] == "test"]
    assert "both" in methods


def test_adaptive_ranking_costs_fewer_comparisons(ranker_tree, go) -> None:
    named = {"type": "pairranker", "trained": "pairranker", "strategy": "adaptive", "top_k": 1}
    ranker_tree["stages"][4]["rankers"] = ["pairranker", named | {"name": "adaptive"}]
    run, _ = go(ranker_tree)
    rankings = {name: list(own) for name, own in stored_rankings(run).items()}
    pairs = list(zip(rankings["pairranker"], rankings["adaptive"], strict=True))
    assert all(few.comparisons <= all_.comparisons for all_, few in pairs)
    assert any(few.comparisons < all_.comparisons for all_, few in pairs)
    assert all(few.tokens <= all_.tokens for all_, few in pairs)
    costs = {r["method"]: r for r in _table(run, "cost.csv") if r["split"] == "test"}
    own = [r for r in rankings["adaptive"] if r.question_id in _ids(run, "test")]
    assert int(costs["adaptive"]["comparisons"]) == sum(r.comparisons for r in own)
    assert int(costs["adaptive"]["tokens"]) < int(costs["pairranker"]["tokens"])
    assert float(costs["adaptive"]["seconds"]) > 0


def _ids(run, split: str) -> set[str]:
    return {q.id for q in run.questions if q.split == split}


def test_the_answer_is_the_candidate_ranked_first(ranker_tree, go) -> None:
    run, _ = go(ranker_tree)
    best = {}
    for ranking in stored_rankings(run)["pairranker"]:
        best[ranking.question_id] = ranking.candidates[ranking.ranks.index(1)]
    answers = [
        a for a in read_parts(run.stage_folder("evaluate"), Answer) if a.method == "pairranker"
    ]
    assert len(answers) == 20
    assert {a.question_id: a.candidate for a in answers} == best


def test_the_ranking_table_says_how_well_each_ranker_orders(ranker_tree, go) -> None:
    run, _ = go(ranker_tree)
    rows = [r for r in _table(run, "ranking.csv") if r["split"] == "test" and r["task"] == "long"]
    assert [(r["method"], r["label"]) for r in rows] == [
        ("pairranker", "rougeL"),
        ("bm25", "rougeL"),
    ]
    for row in rows:
        assert 0 <= float(row["pairwise_accuracy_low"]) <= float(row["pairwise_accuracy"]) <= 1
        assert float(row["regret"]) >= 0
        assert 0 < int(row["n"]) <= len(_ids(run, "test"))


def test_confidence_reaches_answers_and_tables(untrained, go, monkeypatch) -> None:
    monkeypatch.setattr(confidence, "MIN_QUESTIONS", 4)
    monkeypatch.setattr(confidence, "MIN_OUTCOMES", 1)
    run, _ = go(untrained)
    answers = [a for a in read_parts(run.stage_folder("evaluate"), Answer) if a.method == "bm25"]
    sure = {a.question_id: a.confidence for a in answers if a.protocol == "lm_eval"}
    assert len(sure) == 20
    assert all(0 < value < 1 for value in sure.values())
    rows = {r["question_id"]: r for r in _table(run, "answers.csv") if r["protocol"] == "lm_eval"}
    assert {q: float(r["bm25.confidence"]) for q, r in rows.items()} == pytest.approx(sure)
    [row] = [
        r
        for r in _table(run, "ranking.csv")
        if (r["split"], r["protocol"]) == ("test", "lm_eval") and r["label"] == "correct"
    ]
    accuracy = next(
        float(r["accuracy"])
        for r in _table(run, "methods.csv")
        if (r["split"], r["protocol"], r["method"]) == ("test", "lm_eval", "bm25")
    )
    # Of multiple-choice answers the best is the right one.
    assert float(row["risk"]) == pytest.approx(1 - accuracy)
    assert int(row["confidence_n"]) == len([q for q in sure if q in _ids(run, "test")])
    assert 0 <= float(row["ece"]) <= 1 and 0 <= float(row["aurc"]) <= 1


def test_only_chosen_splits_are_ranked(untrained, go) -> None:
    run, _ = go(untrained, "stages.rank.splits=[test]")
    assert {r.question_id for r in stored_rankings(run)["bm25"]} == _ids(run, "test")
    assert {r["split"] for r in _table(run, "ranking.csv")} == {"test"}


def test_all_candidates_of_the_run_say_how_rare_a_word_is(untrained, go) -> None:
    run, _ = go(untrained)
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    texts = {(c.question_id, c.protocol, c.key): c.text for c in candidates}
    ranker = BM25Ranker(text for text in texts.values())
    for ranking in stored_rankings(run)["bm25"]:
        [question] = [q for q in run.questions if q.id == ranking.question_id]
        own = [texts[question.id, ranking.protocol, key] for key in ranking.candidates]
        [expected] = ranker.rank([source_text(question)], [own])
        assert ranking.scores == pytest.approx(expected.scores)
    assert any(score > 0 for r in stored_rankings(run)["bm25"] for score in r.scores)


def test_up_to_date_resumed_and_changed(untrained, go) -> None:
    run, _ = go(untrained)
    before = _records(run)
    _, actions = go(untrained, "stages.rank.shard_size=50")
    assert set(actions.values()) == {"skip"}
    part_paths(run.stage_folder("rank"))[1].unlink()
    run, actions = go(untrained, "stages.rank.shard_size=50")
    assert (actions["generate"], actions["rank"]) == ("skip", "resume")
    assert _records(run) == before
    _, actions = go(untrained, "stages.rank.rankers=[{type: bm25, name: okapi}]")
    assert (actions["score"], actions["rank"], actions["evaluate"]) == ("skip", "run", "run")
    _, actions = go(untrained, selection=Selection(only=("rank",), force=True))
    assert actions["rank"] == "run"


def test_a_report_without_rankers_keeps_no_ranking_table(untrained, go) -> None:
    run, _ = go(untrained)
    assert (run.stage_folder("report") / "ranking.csv").is_file()
    del untrained["stages"][3]
    run, actions = go(untrained)
    assert actions["evaluate"] == "run"
    assert not (run.stage_folder("report") / "ranking.csv").exists()


def test_a_question_with_one_candidate_is_ranked_first(untrained, go) -> None:
    untrained["experts"] = untrained["experts"][:1]
    untrained["stages"][1]["long"] = {"samples": 1}
    run, _ = go(untrained)
    assert {r.ranks for r in stored_rankings(run)["bm25"]} == {(1,)}
    # Nothing says which order is right.
    assert not (run.stage_folder("report") / "ranking.csv").exists()


def test_a_named_ranker_can_be_chosen_as_method(untrained, go) -> None:
    untrained["stages"][4] = {"type": "evaluate", "methods": ["best_single", "bm25"]}
    run, _ = go(untrained)
    assert {a.method for a in read_parts(run.stage_folder("evaluate"), Answer)} == {
        "best_single",
        "bm25",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.rank.rankers=[bm52]", "did you mean 'bm25'"),
        ("stages.rank.rankers=[bm25, bm25]", "stands twice"),
        ("stages.rank.rankers=[{type: bm25, name: mbr}]", "a method of another kind"),
        ("stages.rank.rankers=[{type: pairranker}]", "exactly one of 'trained' and 'model'"),
        ("stages.rank.rankers=[{type: pairranker, trained: x}]", "trains no such ranker"),
        ("stages.rank.rankers=[{type: simcls, trained: pairranker}]", "write type: pairranker"),
        (
            "stages.rank.rankers=[{type: pairranker, model: ./no/where}]",
            r"rankers.0.model.*no such",
        ),
        ("stages.rank.rankers=[{type: pairranker, model: a/b, strategy: all}]", "strategy"),
        ("stages.rank.rankers=[{type: pairranker, model: a/b, top_k: 0}]", "top_k"),
        ("stages.rank.rankers=[bm25, {type: mean, of: [bm25]}]", "of"),
        ("stages.rank.rankers=[bm25, {type: mean, of: [bm25, bm25]}]", "stands twice"),
        (
            "stages.rank.rankers=[bm25, embedding, {type: mean, of: [bm52, embedding]}]",
            "did you mean 'bm25'",
        ),
        ("stages.rank.rankers=[bm25, {type: mean, of: [bm25, mean]}]", "of no such ranker"),
        (
            "stages.rank.rankers=[bm25, embedding, {type: mean, of: [bm25, embedding], "
            "weights: [1]}]",
            "1 weights for 2 rankers",
        ),
        ("stages.rank.splits=[valid]", "splits"),
        ("stages.evaluate={type: evaluate, methods: [bm52]}", "did you mean 'bm25'"),
    ],
)
def test_wrong_settings_are_refused(ranker_tree, save_recipe, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(ranker_tree), [override]))


def test_stages_that_read_rankings_stand_after_them(ranker_tree, save_recipe) -> None:
    stages = ranker_tree["stages"]
    stages[4], stages[5] = stages[5], stages[4]
    with pytest.raises(ConfigError, match="'evaluate' reads the output of 'rank'"):
        stages_of(open_recipe(save_recipe(ranker_tree)))


def test_validation_loads_no_model(ranker_tree, save_recipe) -> None:
    path = save_recipe(ranker_tree)
    code = (
        "import sys; from pathlib import Path\n"
        "from blender_med.stages.validation import validate_recipe\n"
        f"print(validate_recipe(Path({str(path)!r})))\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["pipeline", "[]"], done.stderr
    # Well under a second on a free core; the bound leaves room for a busy machine.
    assert time.perf_counter() - started < 10
