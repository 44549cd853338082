"""Recipes of training jobs: what they refuse, and the steps that follow from them."""

from typing import Any, get_args

import pytest

from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.rankers.config import LossType, SamplingMode
from blender_med.rankers.losses import PAIR_LOSSES, SAMPLING_MODES
from blender_med.training.config import TrainingSettings, load_ranker_job, recipe_file


def _tree(**changes: Any) -> dict[str, Any]:
    ranker = {"type": "pairranker", "backbone": "microsoft/deberta-v3-base"}
    return {"name": "r", "labels": ["rougeL"], "ranker": ranker} | changes


def test_recipes_offer_every_loss_and_sampling_mode() -> None:
    assert set(get_args(LossType)) == set(PAIR_LOSSES)
    assert set(get_args(SamplingMode)) == set(SAMPLING_MODES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "labels"),
        ({"labels": ["a", "a"]}, "stands twice"),
        ({"name": "a/b"}, "name"),
        ({"trainin": {}}, "did you mean 'training'"),
        ({"training": {"batch_size": 10, "micro_batch_size": 4}}, "multiple"),
        ({"training": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"training": {"optimizer": "sgd"}}, "optimizer"),
        ({"training": {"epochs": 0}}, "epochs"),
        ({"data": {}}, "exactly one"),
        ({"data": {"run": "a", "candidates": "b"}}, "exactly one"),
        ({"data": {"run": "no/such/run"}}, r"'data.run'.*no such run"),
        ({"ranker": {"type": "pairankr", "backbone": "x"}}, "did you mean 'pairranker'"),
        ({"ranker": {"type": "simcls"}}, r"ranker.backbone.*add this key"),
        ({"ranker": {"type": "simcls", "backbone": "x", "num_pos": 3}}, "num_pos"),
        ({"ranker": {"type": "simcls", "backbone": "./no/such"}}, r"'ranker.backbone'.*no such"),
    ],
)
def test_wrong_recipes_name_key_and_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_ranker_job(_tree(**changes))


def test_a_backbone_of_a_missing_package_says_what_to_install() -> None:
    ranker = {"type": "simcls", "backbone": "package:no-such-model-package"}
    with pytest.raises(MissingDependencyError, match="pip install"):
        load_ranker_job(_tree(ranker=ranker))


def test_recipes_are_found_by_name_and_by_path() -> None:
    assert load_ranker_job("simcls") == load_ranker_job(recipe_file("rankers/simcls.yaml"))
    with pytest.raises(ConfigError, match=r"did you mean 'rankers/simcls.yaml'"):
        load_ranker_job("simcl")


@pytest.mark.parametrize(
    ("settings", "examples", "accumulation", "per_epoch", "total", "warmup"),
    [
        ({"batch_size": 64, "micro_batch_size": 8, "epochs": 5}, 700, 8, 11, 55, 3),
        ({"batch_size": 4, "micro_batch_size": 8, "epochs": 1}, 9, 1, 3, 3, 1),
        (
            {"batch_size": 8, "micro_batch_size": 8, "epochs": 0.5, "warmup_ratio": 0},
            40,
            1,
            5,
            3,
            0,
        ),
    ],
)
def test_steps_follow_from_the_settings(
    settings: dict[str, Any],
    examples: int,
    accumulation: int,
    per_epoch: int,
    total: int,
    warmup: int,
) -> None:
    training = TrainingSettings(**settings)
    assert training.accumulation_steps() == accumulation
    assert training.steps_per_epoch(examples) == per_epoch
    assert training.total_steps(examples) == total
    assert training.warmup_steps(examples) == warmup


@pytest.mark.parametrize(
    ("settings", "warmup", "evaluation"),
    [
        ({"epochs": 1, "evaluate_every": 0.1}, 1, 2),  # the rate is 0 at the first step
        ({"epochs": 1, "evaluate_every": 0.1, "warmup_ratio": 0}, 0, 1),
        ({"epochs": 0.2, "evaluate_every": 0.1}, 0, 1),  # a single step has to learn
        ({"epochs": 1, "evaluate_every": 0.6}, 1, 3),
        ({"epochs": 1, "evaluate_every": 1, "warmup_ratio": 0.5}, 3, 5),
    ],
)
def test_unchanged_weights_are_not_measured(
    settings: dict[str, Any], warmup: int, evaluation: int
) -> None:
    training = TrainingSettings(batch_size=8, micro_batch_size=8, **settings)  # 5 steps an epoch
    assert training.warmup_steps(40) == warmup
    assert training.evaluation_steps(40) == evaluation
