"""The trackers: TensorBoard for real, MLflow and W&B through their public interface."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from blender_med.errors import ConfigError, ExpertError, MissingDependencyError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.reports import tracking
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, dry_run, run_pipeline


@pytest.fixture
def tracked(recipe_tree, save_recipe):
    """Runs the pipeline with trackers; returns the run."""
    recipe_tree["stages"][2:4] = [
        {"type": "score", "metrics": ["chrf", "correct"]},
        {"type": "evaluate", "primary_long": "chrf"},
    ]

    def run(*names: str, overrides: tuple[str, ...] = ()) -> Any:
        opened = open_recipe(save_recipe(recipe_tree | {"log_to": list(names)}), overrides)
        executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
        with tracking.track(opened) as tracker:
            run_pipeline(opened, executor, Selection(), tracker.stage_ended)
        return opened

    return run


@pytest.fixture
def fakes(monkeypatch) -> SimpleNamespace:
    """Modules with the calls of MLflow and W&B that are used, and what they were told."""
    seen = SimpleNamespace(metrics={}, ends=[], config={}, names=[])
    mlflow: Any = ModuleType("mlflow")
    mlflow.set_experiment = seen.names.append
    mlflow.start_run = lambda run_name: seen.names.append(run_name)
    mlflow.log_dict = lambda tree, name: seen.config.update(tree)
    mlflow.log_metrics = seen.metrics.update
    mlflow.end_run = lambda status: seen.ends.append(status)

    class Run:
        log = staticmethod(seen.metrics.update)
        finish = staticmethod(lambda exit_code: seen.ends.append(exit_code))

    def init(project: str, name: str, config: dict[str, Any]) -> Run:
        seen.names += [project, name]
        seen.config.update(config)
        return Run()

    wandb: Any = ModuleType("wandb")
    wandb.init = init
    for module in (mlflow, wandb):
        module.__spec__ = SimpleNamespace(name=module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_tensorboard_gets_stages_and_methods(tracked) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    run = tracked("tensorboard")
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    values = {
        tag: make_ndarray(events.Tensors(tag)[0].tensor_proto).item()
        for tag in events.Tags()["tensors"]
    }
    assert values["stage/generate/rows"] == 2 * (20 * 2 + 20 * 2)
    table = tracking.method_metrics(run.stage_folder("report") / "methods.csv")
    assert len(table) > 20
    for name, value in table.items():
        assert values[name] == pytest.approx(value, rel=1e-5)
    assert "questions/test/mcq/lm_eval/expert_good/accuracy" in values
    assert not [name for name in values if name.endswith(("_low", "_p_holm", "/note"))]


@pytest.mark.parametrize(("name", "end"), [("mlflow", "FINISHED"), ("wandb", 0)])
def test_the_public_interface_is_told(name, end, tracked, fakes) -> None:
    run = tracked(name)
    assert fakes.names == ["blender-med", "demo"]
    assert fakes.config["recipe"]["name"] == "demo"
    assert set(fakes.config["experts"]) == {"good", "poor"}
    assert fakes.metrics["stage/prepare/rows"] == 40.0
    figures = tracking.method_metrics(run.stage_folder("report") / "methods.csv")
    assert figures.items() <= fakes.metrics.items()
    assert fakes.ends == [end]


@pytest.mark.parametrize(("name", "end"), [("mlflow", "FAILED"), ("wandb", 1)])
def test_a_failed_run_ends_as_failed(name, end, tracked, fakes) -> None:
    with pytest.raises(ExpertError):
        tracked(name, overrides=("experts.good.engine_options.fail_after=3",))
    assert fakes.ends == [end]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed(name, tracked, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=f"'log_to': {name} is not installed.*pip"):
        tracked(name)
    assert not (tmp_path / "runs" / "demo" / "prepare").exists()


def test_trackers_change_no_result(tracked, recipe_tree, save_recipe) -> None:
    tracked()
    plans = dry_run(open_recipe(save_recipe(recipe_tree), ["log_to=[tensorboard]"]), Selection())
    assert {plan.action for plan in plans} == {"skip"}


def test_an_unknown_tracker_is_refused(tracked) -> None:
    with pytest.raises(ConfigError, match="log_to"):
        tracked("tensorbord")
