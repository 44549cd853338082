"""Stage fuse: what is shown, what is written, the guard, and the fusers' rows in the reports."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from blender_med.errors import ConfigError
from blender_med.fusers.config import Decoding
from blender_med.records import Answer, Candidate, FusedAnswer, Score
from blender_med.stages import evaluate
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.rank import stored_rankings
from blender_med.stages.runner import Selection, stages_of
from blender_med.store.shards import part_paths, read_parts

LONG, TEST = 20, 10


@pytest.fixture
def fuse_tree(recipe_tree):
    """Fake experts, BM25 as ranker and guard, a fuser of each kind that needs no weights."""
    stages = recipe_tree["stages"]
    asked = {
        "type": "genfuser",
        "expert": "good",
        "guard": "ranker",
        "decoding": {"temperature": 0.5},
    }
    recipe_tree["stages"] = [
        *stages[:2],
        {"type": "score", "metrics": ["chrf", "length", "correct"]},
        {"type": "rank", "rankers": ["bm25"]},
        {
            "type": "fuse",
            "shard_size": 6,
            "fusers": [
                asked,
                {"type": "concatenation", "guard": "ranker"},
                {"type": "aggregate", "expert": "poor", "rounds": 2},
            ],
        },
        {"type": "evaluate", "primary_long": "chrf", "faithfulness": None},
        stages[-1],
    ]
    return recipe_tree


@pytest.fixture(scope="module")
def _runs() -> dict:
    return {}


@pytest.fixture
def finished(_runs, request):
    """The run of ``fuse_tree``, made once for the tests that only look at it."""
    if not _runs:
        go, tree = request.getfixturevalue("go"), request.getfixturevalue("fuse_tree")
        _runs["run"], _ = go(tree)
    return _runs["run"]


def _table(run, name: str) -> list[dict[str, str]]:
    with (run.stage_folder("report") / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _records(run) -> list[FusedAnswer]:
    return [replace(r, seconds=0.0) for r in read_parts(run.stage_folder("fuse"), FusedAnswer)]


def _fusions(run) -> dict[str, list[FusedAnswer]]:
    return {method: list(own) for method, own in stored_fusions(run).items()}


def test_every_fuser_is_a_method_with_scores_and_costs(finished) -> None:
    run = finished
    fusions = _fusions(run)
    assert list(fusions) == [
        "genfuser", "genfuser-guarded", "concatenation", "concatenation-guarded", "aggregate",
    ]  # fmt: skip
    assert {len(own) for own in fusions.values()} == {LONG}

    texts = {(c.question_id, c.key): c.text for c in _candidates(run)}
    for fused, joined in zip(fusions["genfuser"], fusions["concatenation"], strict=True):
        assert fused.shown == joined.shown and len(fused.shown) == 3
        assert fused.candidate is None and fused.outcome == "fused" and fused.text
        shown = [texts[fused.question_id, key] for key in joined.shown]
        assert joined.text == "\n\n".join(shown)
        assert fused.prompt_tokens > sum(len(text.split()) for text in shown)
    # A draft for each candidate, then one answer from the drafts.
    aggregate, plain = fusions["aggregate"][0], fusions["genfuser"][0]
    assert aggregate.prompt_tokens > 3 * plain.prompt_tokens

    rows = [r for r in _table(run, "methods.csv") if (r["split"], r["task"]) == ("test", "long")]
    methods = [row["method"] for row in rows]
    assert methods.index("bm25") + 1 == methods.index("genfuser")
    assert methods.index("aggregate") < methods.index("oracle")
    assert {r["method"]: r["n"] for r in rows}["genfuser"] == str(TEST)
    costs = {(r["split"], r["task"], r["method"]): r for r in _table(run, "cost.csv")}
    ids = {q.id for q in run.questions if q.split == "test"}
    own = [f for f in fusions["genfuser"] if f.question_id in ids]
    spent = sum(f.prompt_tokens + f.completion_tokens for f in own)
    ranked = int(costs["test", "long", "bm25"]["tokens"])
    assert int(costs["test", "long", "genfuser"]["tokens"]) == ranked + spent
    assert int(costs["test", "long", "concatenation"]["tokens"]) == ranked


def _candidates(run) -> list[Candidate]:
    return list(read_parts(run.stage_folder("generate"), Candidate))


def test_new_texts_have_the_metrics_of_stage_score(finished) -> None:
    from blender_med.metrics.overlap import chrf

    run = finished
    references = {q.id: q.reference for q in run.questions}
    answers = list(read_parts(run.stage_folder("evaluate"), Answer))
    new = [a for a in answers if a.method == "concatenation"]
    for answer in new[:3]:
        [expected] = chrf([answer.text], [references[answer.question_id]])
        assert answer.scores["chrf"] == pytest.approx(expected)
        assert answer.scores["length"] == len(answer.text.split())
    assert all(not a.scores for a in answers if a.candidate is not None)
    # The oracle is one over candidates, whatever the fusers wrote.
    best = {}
    for score in read_parts(run.stage_folder("score"), Score):
        if score.metric == "chrf":
            best[score.question_id] = max(score.value, best.get(score.question_id, 0.0))
    rows = {r["question_id"]: r for r in _table(run, "answers.csv") if r["task"] == "long"}
    for question_id, row in rows.items():
        assert float(row["oracle.chrf"]) == pytest.approx(best[question_id], rel=1e-6)
        assert row["genfuser.text"]
        assert "genfuser.candidate" not in row, "it repeats none in the whole file"


def test_the_guard_keeps_what_its_ranker_prefers(finished) -> None:
    run = finished
    fusions = _fusions(run)
    texts = {(c.question_id, c.key): c.text for c in _candidates(run)}
    best = {
        r.question_id: r.candidates[r.ranks.index(1)]
        for r in stored_rankings(run)["bm25"]
        if r.protocol == "generative"
    }
    pairs = [
        pair
        for name in ("genfuser", "concatenation")
        for pair in zip(fusions[name], fusions[f"{name}-guarded"], strict=True)
    ]
    kept = {guarded.kept for _, guarded in pairs}
    assert kept == {"fused", "candidate"}, "the guard never had a choice"
    for plain, guarded in pairs:
        top = best[plain.question_id]
        assert guarded.top == plain.top == top
        if guarded.kept == "fused":
            assert guarded.margin > 0
            assert (guarded.text, guarded.candidate) == (plain.text, None)
        else:
            assert guarded.margin <= 0
            assert (guarded.text, guarded.candidate) == (texts[plain.question_id, top], top)
        assert guarded.prompt_tokens == plain.prompt_tokens


def test_the_fusion_table_counts_what_the_answers_say(finished) -> None:
    run = finished
    rows = {r["method"]: r for r in _table(run, "fusion.csv") if r["split"] == "test"}
    answers = [r for r in _table(run, "answers.csv") if (r["split"], r["task"]) == ("test", "long")]
    for method, row in rows.items():
        for rival, column in (("top", "bm25"), ("best_single", "best_single")):
            gains = [float(a[f"{method}.chrf"]) - float(a[f"{column}.chrf"]) for a in answers]
            assert int(row[f"improved_{rival}"]) == sum(g > 1e-6 for g in gains)
            assert int(row[f"stayed_{rival}"]) == sum(abs(g) <= 1e-6 for g in gains)
            assert int(row[f"worsened_{rival}"]) == sum(g < -1e-6 for g in gains)
        assert int(row["fused"]) == TEST
        gains = [float(a[f"{method}.chrf"]) - float(a["bm25.chrf"]) for a in answers]
        assert float(row["chrf_delta_top"]) == pytest.approx(np.mean(gains))
        low, high = float(row["chrf_delta_top_low"]), float(row["chrf_delta_top_high"])
        assert low <= np.mean(gains) <= high and 0 < float(row["chrf_p_top"]) <= 1
    assert "length_delta_top" not in rows["genfuser"], "no length is better than another"
    ids = {q.id for q in run.questions if q.split == "test"}
    guarded = [f for f in _fusions(run)["genfuser-guarded"] if f.question_id in ids]
    share = sum(f.kept == "fused" for f in guarded) / TEST
    assert float(rows["genfuser-guarded"]["kept_fused"]) == pytest.approx(share)
    assert rows["genfuser"]["kept_fused"] == ""
    # What the guard keeps of the ranker's is no change.
    kept = [f for f in guarded if f.kept == "candidate"]
    assert int(rows["genfuser-guarded"]["stayed_top"]) >= len(kept)


def test_flags_and_links_reach_the_tables(fuse_tree, go, monkeypatch) -> None:
    import numpy as np

    def embed(texts):
        counts = [[text.lower().count(chr(97 + i)) + 1e-6 for i in range(26)] for text in texts]
        rows = np.array(counts)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(evaluate, "sentence_embedder", lambda config: embed)
    monkeypatch.setattr(evaluate, "weights_revision", lambda *source: "toy")
    fuse_tree["stages"][-2] = {"type": "evaluate", "primary_long": "chrf"}
    run, _ = go(fuse_tree)
    rows = {r["question_id"]: r for r in _table(run, "answers.csv") if r["task"] == "long"}
    for fused in _fusions(run)["concatenation"]:
        row = rows[fused.question_id]
        assert row["concatenation.links"].startswith(f"1: {fused.shown[0]} sentence 1 (1.00)")
        assert "concatenation.flags" not in row, "a copy is never flagged"
        assert row["genfuser.links"].startswith("1: ")
    table = {r["method"]: r for r in _table(run, "fusion.csv") if r["split"] == "test"}
    assert table["concatenation"]["flagged_any"] == "0"
    assert table["genfuser"]["checked"] == str(TEST)
    guarded = table["genfuser-guarded"]
    assert int(guarded["checked"]) == round(float(guarded["kept_fused"]) * TEST)


def test_equal_and_blank_texts_are_shown_once_or_not(fuse_tree, go) -> None:
    # One expert that answers greedily: one candidate; top_k is larger.
    fuse_tree["experts"] = fuse_tree["experts"][:1]
    fuse_tree["stages"][1]["long"] = {"samples": 1}
    fuse_tree["stages"][4]["fusers"] = [{"type": "aggregate", "expert": "good", "top_k": 9}]
    run, _ = go(fuse_tree)
    assert {f.shown for f in _fusions(run)["aggregate"]} == {("good#0",)}


def test_without_a_ranker_the_order_is_that_of_the_candidates(fuse_tree, go) -> None:
    del fuse_tree["stages"][3]
    fuse_tree["stages"][3]["fusers"] = [{"type": "concatenation", "top_k": 2}]
    run, _ = go(fuse_tree)
    own = _fusions(run)["concatenation"]
    assert {f.shown for f in own} == {("good#0", "good#1")}
    assert {f.rankers for f in own} == {()}
    # Only what was read is paid.
    cost = {r["method"]: r for r in _table(run, "cost.csv") if r["split"] == "test"}
    assert cost["concatenation"]["experts"] == "good"


def test_up_to_date_resumed_and_changed(fuse_tree, go) -> None:
    run, _ = go(fuse_tree)
    before = _records(run)
    _, actions = go(fuse_tree, "stages.fuse.shard_size=50")
    assert set(actions.values()) == {"skip"}
    paths = part_paths(run.stage_folder("fuse"))
    for path in (paths[0], next(p for p in paths if "genfuser-guarded" in p.name)):
        path.unlink()
    run, actions = go(fuse_tree, "stages.fuse.shard_size=50")
    assert (actions["rank"], actions["fuse"]) == ("skip", "resume")
    assert _records(run) == before
    _, actions = go(fuse_tree, "stages.score.metrics=[chrf, correct]")
    assert (actions["fuse"], actions["evaluate"]) == ("skip", "run")
    _, actions = go(fuse_tree, "stages.fuse.fusers=[concatenation]")
    assert (actions["rank"], actions["fuse"], actions["evaluate"]) == ("skip", "run", "run")


def test_only_ranked_splits_are_fused(fuse_tree, go) -> None:
    run, _ = go(fuse_tree, "stages.rank.splits=[test]", "stages.fuse.fusers=[concatenation]")
    ids = {q.id for q in run.questions if q.split == "test" and q.task == "long"}
    assert {f.question_id for f in _fusions(run)["concatenation"]} == ids


def test_a_run_without_fusers_keeps_no_fusion_table(fuse_tree, go) -> None:
    run, _ = go(fuse_tree, "stages.fuse.fusers=[concatenation]")
    assert (run.stage_folder("report") / "fusion.csv").is_file()
    del fuse_tree["stages"][4]
    run, actions = go(fuse_tree)
    assert actions["evaluate"] == "run"
    assert not (run.stage_folder("report") / "fusion.csv").exists()


@pytest.mark.parametrize(
    ("fusers", "message"),
    [
        ("[concat]", "did you mean 'concatenation'"),
        ("[concatenation, concatenation]", "stands twice"),
        ("[{type: concatenation, name: mbr}]", "a method of another kind"),
        ("[{type: concatenation, name: bm25}]", "a method of another kind"),
        ("[{type: concatenation, name: a-guarded}, {type: concatenation, name: a, guard: ranker}]",
         "stands twice"),
        ("[{type: genfuser}]", "exactly one of 'model', 'trained' and 'expert'"),
        ("[{type: genfuser, expert: god}]", r"fusers.0.expert.*did you mean 'good'"),
        ("[{type: genfuser, trained: x}]", r"fusers.0.trained.*no such fuser"),
        ("[{type: genfuser, model: ./no/where}]", r"fusers.0.model.*no such model"),
        ("[{type: genfuser, model: ./no/where, engine: vllm}]", r"fusers.0.model.*no such model"),
        ("[{type: genfuser, expert: good, decoding: {num_beams: 4}}]", "do not know"),
        ("[{type: genfuser, expert: good, decoding: {max_new_tokens: 5000}}]",
         r"fusers.0.decoding.max_new_tokens.*no room for a prompt"),
        ("[{type: concatenation, ranker: bm52}]", r"fusers.0.ranker.*did you mean 'bm25'"),
        ("[{type: concatenation, guard_ranker: bm25}]", "without a guard"),
        ("[{type: concatenation, guard: ranker, guard_ranker: x}]", r"fusers.0.guard_ranker"),
        ("[{type: concatenation, top_k: 0}]", "top_k"),
        ("[{type: aggregate, expert: good, rounds: 3}]", "rounds"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(fuse_tree, save_recipe, fusers, message) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(fuse_tree), [f"stages.fuse.fusers={fusers}"]))


def test_a_guard_needs_a_ranker(fuse_tree, save_recipe) -> None:
    del fuse_tree["stages"][3]
    with pytest.raises(ConfigError, match=r"fusers.0.guard.*add stage rank before fuse"):
        stages_of(open_recipe(save_recipe(fuse_tree)))


def test_a_mean_of_rankers_is_no_guard(fuse_tree, save_recipe) -> None:
    mean = "stages.rank.rankers=[bm25, {type: bm25, name: again}, {type: mean, of: [bm25, again]}]"
    overrides = [mean, "stages.fuse.fusers.0.guard_ranker=mean"]
    with pytest.raises(ConfigError, match=r"fusers.0.guard_ranker.*how many rankers prefer"):
        stages_of(open_recipe(save_recipe(fuse_tree), overrides))


def test_a_split_that_is_not_ranked_cannot_be_fused(fuse_tree, save_recipe) -> None:
    overrides = ["stages.rank.splits=[test]", "stages.fuse.splits=[dev]"]
    with pytest.raises(ConfigError, match="this split is not ranked"):
        stages_of(open_recipe(save_recipe(fuse_tree), overrides))


def test_a_prompt_that_no_limit_fits_names_the_fuser(fuse_tree, go) -> None:
    fusers = "[{type: genfuser, expert: good, max_length: 8}]"
    with pytest.raises(ConfigError, match=r"fuse.fusers.0.max_length.*fuse fewer candidates"):
        go(fuse_tree, f"stages.fuse.fusers={fusers}", selection=Selection())


def test_what_the_recipe_names_outweighs_the_experts_own_sampling() -> None:
    from blender_med.experts.config import ExpertConfig
    from blender_med.stages.fusing.experts import sampling_of

    expert = ExpertConfig(name="a", engine="fake", sampling={"temperature": 0.9, "top_k": 7})
    sampling = sampling_of(Decoding(temperature=0.2, max_new_tokens=9), expert)
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.2, 7, 9)
    assert sampling_of(Decoding(), expert).temperature == 0.9


def test_a_full_disk_is_told_and_the_run_continues(fuse_tree, go, monkeypatch) -> None:
    import pyarrow.parquet as pq

    from blender_med.errors import StoreError

    real, written = pq.write_table, Counter[str]()

    def full(table, path, **settings) -> None:
        written["fuse"] += "genfuser-0000006" in str(path)
        if written["fuse"]:
            raise OSError(28, "No space left on device")
        real(table, path, **settings)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StoreError, match="No space left on device"):
        go(fuse_tree)
    monkeypatch.setattr(pq, "write_table", real)
    run, actions = go(fuse_tree)
    assert (actions["rank"], actions["fuse"]) == ("skip", "resume")
    assert len(_fusions(run)["genfuser"]) == LONG


def test_a_fuser_trained_in_the_run_is_named_alone(fuse_tree, go, tiny_fuser) -> None:
    job = {
        "name": "tiny",
        "candidates": {"metric": "chrf", "top_k": 2},
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
            "precision": "float32",
            "report_to": [],
            "max_dev_questions": 2,
            "decoding": {"num_beams": 1, "max_new_tokens": 4},
        },
    }
    fuse_tree["stages"][0]["splits"] = {"train": 0.4, "dev": 0.2, "test": 0.4}
    fuse_tree["stages"].insert(4, {"type": "train-fuser", "fusers": [job]})
    fuse_tree["stages"][5]["fusers"] = ["tiny"]
    chosen = Selection(only=("prepare", "generate", "score", "rank", "train-fuser", "fuse"))
    run, _ = go(fuse_tree, selection=chosen)
    [(name, own)] = _fusions(run).items()
    assert (name, len(own)) == ("tiny", LONG)
    assert all(f.prompt_tokens <= 256 for f in own)
    fuse_tree["stages"][4]["fusers"][0]["seed"] = 5
    _, actions = go(fuse_tree, selection=chosen)
    assert (actions["rank"], actions["train-fuser"], actions["fuse"]) == ("skip", "run", "run")
