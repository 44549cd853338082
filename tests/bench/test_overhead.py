"""What bench/overhead.py takes for model computation, start-up and the run's own work."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

FILE = Path(__file__).parents[2] / "bench" / "overhead.py"
SPEC = importlib.util.spec_from_file_location("overhead", FILE)
assert SPEC is not None and SPEC.loader is not None
overhead = importlib.util.module_from_spec(SPEC)
sys.modules["overhead"] = overhead
SPEC.loader.exec_module(overhead)

MODULE = ("site-packages/torch/nn/modules/module.py", "_call_impl")
STAGE = ("/src/blender_med/stages/score.py", "execute")
MAIN = ("bench/overhead.py", "main")


def stack(*calls: tuple[str, str]) -> list:
    return [overhead.Frame(*call) for call in calls]


@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        ([("torch/nn/functional.py", "linear"), MODULE, STAGE, MAIN], "model"),
        ([("/src/blender_med/rankers/encoder_layers.py", "layer"), STAGE, MAIN], "model"),
        ([("site-packages/torch/optim/optimizer.py", "wrapper"), STAGE, MAIN], "model"),
        ([("rouge.py", "score"), STAGE, MAIN], "own"),
        ([STAGE, MAIN], "own"),
        # A model whose loading runs modules is not computing yet, nor is what an import runs.
        ([MODULE, ("transformers/modeling_utils.py", "from_pretrained"), STAGE, MAIN], "start-up"),
        ([MODULE, ("<frozen importlib._bootstrap>", "_load"), STAGE, MAIN], "start-up"),
        ([("subprocess.py", "_execute_child"), ("process.py", "_spawn"), STAGE], "start-up"),
    ],
)
def test_kind_of_a_stack(calls, kind) -> None:
    assert overhead.kind_of(stack(*calls)) == kind


@pytest.mark.parametrize(("method", "kind"), [("load", "start-up"), ("generate", "model")])
def test_an_engine_process_loads_or_computes(method, kind) -> None:
    frame = SimpleNamespace(f_locals={"method": method})
    waiting = overhead.Frame("/src/blender_med/experts/process.py", "_call", frame)
    assert overhead.kind_of([*stack(("socket.py", "recv")), waiting, *stack(STAGE)]) == kind


def test_a_place_is_our_innermost_function_and_what_it_calls() -> None:
    assert overhead.place_of(stack(STAGE, MAIN)) == "stages/score.py:execute"
    called = stack(("json/encoder.py", "iterencode"), STAGE, MAIN)
    assert overhead.place_of(called) == "stages/score.py:execute > encoder.py:iterencode"


def test_all_watched_time_is_counted() -> None:
    sampler = overhead.Sampler(lambda: "score")
    started = time.perf_counter()
    sampler.start()
    time.sleep(0.2)
    sampler.stop()
    seconds = time.perf_counter() - started
    assert sampler.seconds["score"]["own"] == pytest.approx(seconds, abs=0.15)
    assert sum(sampler.places.values()) == pytest.approx(sampler.seconds["score"]["own"])


def test_shares_with_and_without_start_up() -> None:
    sampler = overhead.Sampler(lambda: "")
    sampler.seconds["generate"] = Counter({"model": 90.0, "start-up": 3.0, "own": 1.0})
    sampler.seconds["report"] = Counter({"own": 6.0})
    result = overhead.summary(sampler, 101.0)
    assert result["share_that_is_no_model"] == pytest.approx(0.1)
    assert result["share_of_own_work"] == pytest.approx(0.07)
    assert not any(result["requirements"].values())
    # 10 s of 170 s are no model, 7 s of them the run's own work.
    sampler.seconds["generate"]["model"] = 160.0
    assert overhead.summary(sampler, 170.0)["requirements"] == {
        "share_that_is_no_model below 5%": False,
        "share_of_own_work below 5%": True,
    }
