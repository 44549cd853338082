"""Stage ``score`` with metrics that need a model."""

import json
from collections import Counter

import pytest

pytest.importorskip("torch")

from blender_med.errors import ConfigError, DataError, ExpertError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.metrics.bartscore import BartScorer, bart_score
from blender_med.metrics.bertscore import BertScorer, bert_score
from blender_med.records import Candidate, Score
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline, stages_of
from blender_med.store.shards import part_paths, read_parts

METRICS = ["rougeL", "bertscore_f1", "bartscore", "bartscore_reverse", "bertscore_r"]


@pytest.fixture
def tree(recipe_tree, roberta, bart):
    recipe_tree["stages"][2] = {
        "type": "score",
        "metrics": [*METRICS, "correct"],
        "models": {
            "bertscore": {"model": str(roberta), "num_layers": 2, "idf": True},
            "bartscore": {"model": str(bart), "max_length": 30},
        },
    }
    return recipe_tree


@pytest.fixture
def loads(monkeypatch):
    """How often each scorer is loaded."""
    counts = Counter()
    for scorer in (BertScorer, BartScorer):
        original = scorer.load.__func__

        def counted(cls, *arguments, _original=original, **settings):
            counts[cls.__name__] += 1
            return _original(cls, *arguments, **settings)

        monkeypatch.setattr(scorer, "load", classmethod(counted))
    return counts


def go(path, *overrides):
    run = open_recipe(path, overrides)
    executor = LocalExecutor(ProgressDisplay(None, quiet=True))
    plans = run_pipeline(run, executor, Selection(only=("prepare", "generate", "score")))
    return run, next(plan.action for plan in plans if plan.name == "score")


def scores_of(run):
    found = {}
    for score in read_parts(run.stage_folder("score"), Score):
        found.setdefault(score.metric, {})[score.key, score.question_id] = score.value
    return found


def test_stored_scores_are_those_of_the_functions(tree, save_recipe, roberta, bart, loads):
    run, action = go(save_recipe(tree))
    assert (action, loads) == ("run", {"BertScorer": 1, "BartScorer": 1})
    references = {q.id: q.reference for q in run.questions if q.reference}
    candidates = [
        c
        for c in read_parts(run.stage_folder("generate"), Candidate)
        if c.question_id in references
    ]
    found = scores_of(run)
    assert set(found) == {*METRICS, "correct"}
    keys = [(c.key, c.question_id) for c in candidates]
    assert all(set(found[name]) == set(keys) for name in METRICS)
    texts, own = [c.text for c in candidates], [references[c.question_id] for c in candidates]
    backward = bart_score(own, texts, model=bart, max_length=30)
    assert [found["bartscore_reverse"][key] for key in keys] == pytest.approx(backward, abs=1e-5)
    scorer = BertScorer.load(roberta, num_layers=2, idf=True)
    scorer.use_references(references.values())
    recall = scorer.score(texts, own).recall
    assert [found["bertscore_r"][key] for key in keys] == pytest.approx(recall, abs=1e-5)
    per_call = bert_score(texts, own, model=roberta, num_layers=2, idf=True).recall
    assert per_call != pytest.approx(recall, abs=1e-5)


def test_a_resumed_stage_equals_an_uninterrupted_one(tree, save_recipe):
    path = save_recipe(tree)
    run, _ = go(path)
    parts = part_paths(run.stage_folder("score"))
    before = [part.read_bytes() for part in parts]
    assert len(parts) == 5  # 40 questions in shards of 8: all experts of a shard together
    parts[2].unlink()
    (run.stage_folder("score") / "manifest.json").unlink()
    _, action = go(path)
    assert action == "resume"
    assert [part.read_bytes() for part in parts] == before


@pytest.mark.parametrize(
    ("override", "action"),
    [
        ("stages.score.models.bertscore.batch_tokens=17", "skip"),
        ("stages.score.models.bartscore.device=cpu", "skip"),
        ("stages.score.models.bertscore.num_layers=1", "run"),
        ("stages.score.models.bartscore.dtype=bfloat16", "run"),
    ],
)
def test_what_changes_the_result_reruns(tree, save_recipe, override, action):
    path = save_recipe(tree)
    go(path)
    assert go(path, override)[1] == action


def test_other_weights_rerun(tree, save_recipe, roberta, tmp_path):
    copy = tmp_path / "encoder"
    copy.mkdir()
    for file in roberta.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tree["stages"][2]["models"]["bertscore"]["model"] = str(copy)
    path = save_recipe(tree)
    go(path)
    assert go(path)[1] == "skip"
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert go(path)[1] == "run"


def test_a_model_that_no_metric_needs_does_not_matter(tree, save_recipe, loads):
    tree["stages"][2]["metrics"] = ["rougeL", "correct"]
    path = save_recipe(tree)
    go(path)
    assert not loads
    assert go(path, "stages.score.models.bertscore.model=/nowhere")[1] == "skip"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("bertscore.model=/nowhere/at/all", ExpertError, "score.models.bertscore.model"),
        ("bartscore.model=package:no-such", Exception, "score.models.bartscore.model.*pip install"),
        ("bartscore.state_dict=/nowhere.pth", DataError, "score.models.bartscore.state_dict"),
        ("bertscore.num_layers=9", ConfigError, "score.models.bertscore.num_layers.*0 to 3"),
    ],
)
def test_a_model_that_is_not_there_is_named(tree, save_recipe, override, error, message):
    path = save_recipe(tree)
    changed = f"stages.score.models.{override}"
    stages_of(open_recipe(path, [changed]))  # valid as a recipe: no model is looked at
    with pytest.raises(error, match=message):
        go(path, changed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bertscore={model: somebody/else}", "set 'num_layers'"),
        ("bertscore.dtype=int8", "dtype"),
        ("bartscore.max_length=1", "max_length"),
        ("bleurt.model=x", "unknown keys"),
        ("bertscore.layers=3", "did you mean"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(tree, save_recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        open_recipe(save_recipe(tree), [f"stages.score.models.{override}"])


def test_progress_sums_to_the_candidates(tree, save_recipe):
    run, _ = go(save_recipe(tree))
    stage = next(s for s in stages_of(run) if s.name == "score")
    units, steps = stage.plan(None), []
    assert len(list(stage.execute(units, steps.append))) == len(units)
    assert sum(steps) == sum(unit.size for unit in units)
    assert len(steps) > len(units)


def test_model_metrics_cannot_be_the_utility_of_mbr(tree, save_recipe):
    tree["stages"][3] = {
        "type": "evaluate",
        "primary_long": "bertscore_f1",
        "mbr_utility": "bertscore_f1",
    }
    with pytest.raises(ConfigError, match=r"evaluate\.mbr_utility"):
        stages_of(open_recipe(save_recipe(tree)))
    tree["stages"][3]["mbr_utility"] = "chrf"
    stages_of(open_recipe(save_recipe(tree)))
