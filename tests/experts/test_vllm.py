"""Settings of the vLLM engine (quick), and the real engine on tiny random models (slow)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from blender_med.experts import ExpertConfig, Sampling, engine_choice, load_expert, load_experts
from blender_med.experts.requests import EngineSpec
from blender_med.experts.vllm import VllmEngine, vllm_arguments, vllm_environment
from blender_med.records import Question

GREEDY = Sampling(max_tokens=16)
WARM = Sampling(temperature=1.0, max_tokens=16)
QUESTIONS = [
    Question(f"q{i}", "d", "test", "long", f"What is it, {'x' * i}?", context="c" * (i % 7))
    for i in range(40)
]
MCQ = Question("m", "medqa", "test", "mcq", "Which?", None, ("red", "green", "blue"), 1)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


def config(model: object, **values: Any) -> ExpertConfig:
    base = {"name": "tiny", "model": str(model), "dtype": "float32", "max_model_len": 256}
    return ExpertConfig.model_validate({**base, **values})


def spec(one: ExpertConfig, *loras: str, cuda: bool = False) -> EngineSpec:
    return EngineSpec("vllm", one, str(one.model), None, loras, cuda)


def test_settings_on_a_cpu() -> None:
    arguments = vllm_arguments(spec(config("m", dtype="auto", max_model_len=10_000)))
    assert arguments["dtype"] in ("bfloat16", "float32")  # by the instruction set
    assert arguments["enforce_eager"] is True
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] == 10_000
    assert "gpu_memory_utilization" not in arguments
    assert int(vllm_environment(False, False)["VLLM_CPU_KVCACHE_SPACE"]) >= 1


def test_settings_on_cuda() -> None:
    one = config("m", quantization="awq", tensor_parallel_size=2, dtype="float16")
    arguments = vllm_arguments(spec(one, cuda=True))
    assert (arguments["tensor_parallel_size"], arguments["quantization"]) == (2, "awq")
    assert "enforce_eager" not in arguments
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_environment(True, False)


@pytest.mark.slow  # importing vLLM takes seconds
@needs_vllm
def test_adapters_in_folders_of_one_name_are_not_mixed_up() -> None:
    engine = VllmEngine.__new__(VllmEngine)
    engine._adapters = {"/first/adapter": 1, "/second/adapter": 2}
    first, second = map(engine._lora, engine._adapters)
    assert first != second  # vLLM compares adapters by their names


def test_engine_options_go_on_top() -> None:
    one = config("m", engine_options={"max_num_seqs": 8, "seed": 5})
    arguments = vllm_arguments(spec(one))
    assert (arguments["max_num_seqs"], arguments["seed"]) == (8, 5)


def test_one_slot_more_than_adapters(tmp_path: Path) -> None:
    for name, rank in (("a", 4), ("b", 24)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    arguments = vllm_arguments(spec(config("m"), str(tmp_path / "a"), str(tmp_path / "b")))
    assert (arguments["max_loras"], arguments["max_lora_rank"]) == (3, 32)


@pytest.fixture(scope="module")
def engines(tiny_llama: Path) -> Iterator[dict[str, Any]]:
    """The same model by both engines."""
    both = {
        e: load_expert(config(tiny_llama, engine=e), device="cpu") for e in ("vllm", "transformers")
    }
    yield cast("dict[str, Any]", both)
    for expert in both.values():
        expert.close()


def texts(expert: Any, sampling: Sampling, n: int = 1) -> list[list[str]]:
    prompts = [expert.render(q, 16) for q in QUESTIONS]
    rows = expert.generate(prompts, sampling, n=n, seeds=range(len(prompts)))
    return [[c.text.rstrip("\ufffd") for c in row] for row in rows]


@needs_vllm
@pytest.mark.slow
def test_a_fresh_engine_gives_the_same_texts(engines: dict[str, Any]) -> None:
    expert = engines["vllm"]
    first = [texts(expert, GREEDY), texts(expert, WARM, n=2)]
    assert [texts(expert, GREEDY), texts(expert, WARM, n=2)] == first
    expert.close()
    assert [texts(expert, GREEDY), texts(expert, WARM, n=2)] == first
    assert first[1][0][0] != first[1][0][1]


@needs_vllm
@pytest.mark.slow
def test_both_engines_agree_in_float32(engines: dict[str, Any]) -> None:
    assert texts(engines["vllm"], GREEDY) == texts(engines["transformers"], GREEDY)
    scores = {}
    for name, expert in engines.items():
        prompt, letters = expert.render_choices(MCQ)
        words = (" red", " green thing", "A")
        rows = expert.choice_logprobs([prompt] * 3, [letters, words, ("A", "B", "C")])
        scores[name] = [x for row in rows for x in row.logprobs]
    assert scores["vllm"] == pytest.approx(scores["transformers"], abs=1e-3)


@needs_vllm
@pytest.mark.slow
def test_adapters_of_one_base_in_one_engine(
    tiny_llama: Path, tmp_path: Path, save_adapter: Any
) -> None:
    """Regression: with one slot too few, the base's rows get the last adapter's output."""
    loras = [str(save_adapter(tiny_llama, tmp_path / n, seed)) for seed, n in enumerate("ab", 1)]
    configs = [
        config(tiny_llama, name=f"e{i}", engine="vllm", lora=lora)
        for i, lora in enumerate([None, *loras])
    ]
    shared = cast("list[Any]", load_experts(configs, device="cpu"))
    rows = [texts(expert, GREEDY) for expert in shared]
    assert len({expert._engine.pid for expert in shared}) == 1
    for expert in shared:
        expert.close()
    assert rows[0] != rows[1] != rows[2] != rows[0]
    changes = {"engine": "transformers"}
    singles = load_experts([c.model_copy(update=changes) for c in configs], device="cpu")
    assert rows == [texts(expert, GREEDY) for expert in singles]
    for expert in singles:
        expert.close()


@needs_vllm
@pytest.mark.slow
def test_biogpt_through_the_transformers_backend(tiny_biogpt: Path) -> None:
    auto = config(tiny_biogpt, template="biogpt", max_model_len=128)
    assert engine_choice(auto, device="cpu")[0] == "vllm"
    scores = []
    for one in (auto, auto.model_copy(update={"engine": "transformers"})):
        expert = load_expert(one, device="cpu")
        prompt, choices = expert.render_choices(MCQ)
        (row,) = expert.choice_logprobs([prompt], [choices])
        scores.append(row.logprobs)
        expert.close()
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
