from __future__ import annotations

import json
from pathlib import Path

import pytest

from blender_med.errors import ExpertError, MissingDependencyError
from blender_med.experts import ExpertConfig, engine_choice, engines


@pytest.fixture(autouse=True)
def _everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    known = frozenset({"LlamaForCausalLM", "MistralForCausalLM"})
    monkeypatch.setattr(engines, "_vllm_architectures", lambda: known)


def model(folder: Path, architecture: str, **values: object) -> ExpertConfig:
    content = {"architectures": [architecture], "model_type": architecture[:6].lower()}
    (folder / "config.json").write_text(json.dumps(content))
    return ExpertConfig.model_validate({"name": "m", "model": str(folder), **values})


@pytest.mark.parametrize(
    ("architecture", "engine", "reason"),
    [
        ("LlamaForCausalLM", "vllm", "vLLM runs LlamaForCausalLM"),
        ("BioGptForCausalLM", "vllm", "through its Transformers backend"),
        ("NovelForCausalLM", "transformers", "vLLM does not run NovelForCausalLM"),
    ],
)
def test_auto_follows_the_architecture(
    tmp_path: Path, architecture: str, engine: str, reason: str
) -> None:
    chosen, why = engine_choice(model(tmp_path, architecture), device="cpu")
    assert (chosen, reason in why) == (engine, True)


def test_auto_asks_the_hub_for_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model(tmp_path, "NovelForCausalLM")
    fetched: list[tuple[object, ...]] = []

    def fetch(*names: object, revision: str | None) -> str:
        if names[0] == "org/away":
            raise httpx.ConnectError("no network")
        fetched.append((*names, revision))
        return str(tmp_path / "config.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    novel = ExpertConfig(name="m", model="org/novel", revision="v2")
    assert [engine_choice(novel, device="cpu")[0] for _ in range(2)] == ["transformers"] * 2
    assert fetched == [("org/novel", "config.json", "v2")]
    away = engine_choice(ExpertConfig(name="m", model="org/away"), device="cpu")
    assert (away[0], "not known" in away[1]) == ("vllm", True)


def test_auto_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"vllm"}
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name in missing else object())
    config = model(tmp_path, "LlamaForCausalLM")
    assert engine_choice(config, device="cpu") == ("transformers", "vLLM is not installed")
    with pytest.raises(MissingDependencyError, match=r"needs vllm.*pip install"):
        engine_choice(model(tmp_path, "LlamaForCausalLM", engine="vllm"), device="cpu")


def test_biogpt_needs_its_tokenizers_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engines, "find_spec", lambda name: None if name == "sacremoses" else object()
    )
    with pytest.raises(MissingDependencyError, match="sacremoses"):
        engine_choice(model(tmp_path, "BioGptForCausalLM"), device="cpu")


def test_eight_bits_of_bitsandbytes_are_for_transformers(tmp_path: Path) -> None:
    config = model(tmp_path, "LlamaForCausalLM", quantization="bitsandbytes-8bit")
    assert engine_choice(config, device="cuda:0")[0] == "transformers"
    named = config.model_copy(update={"engine": "vllm"})
    with pytest.raises(ExpertError, match="in 4 bits only"):
        engine_choice(named, device="cuda:0")
    with pytest.raises(ExpertError, match="CUDA only"):
        engine_choice(config, device="cpu")


def test_bitsandbytes_is_refused_on_a_cpu_only(tmp_path: Path) -> None:
    config = model(tmp_path, "LlamaForCausalLM", quantization="bitsandbytes")
    with pytest.raises(ExpertError, match="CUDA only"):
        engine_choice(config, device="cpu")
    assert engine_choice(config, device="cuda:0")[0] == "vllm"


def test_a_named_engine_is_taken(tmp_path: Path) -> None:
    config = model(tmp_path, "LlamaForCausalLM", engine="transformers")
    assert engine_choice(config, device="cpu") == ("transformers", "named in the recipe")


def test_vllms_own_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if engines.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    engines._vllm_architectures.cache_clear()
    assert {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Gemma3ForCausalLM",
    } <= engines._vllm_architectures()
    assert "BioGptForCausalLM" not in engines._vllm_architectures()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2", "fma"}, "float32"), ({"avx512_bf16"}, "bfloat16"), ({"asimd", "bf16"}, "bfloat16")],
)
def test_number_format_on_a_cpu_follows_the_instruction_set(monkeypatch, flags, expected) -> None:
    monkeypatch.setattr(engines, "_cpu_flags", lambda: frozenset(flags))
    auto = ExpertConfig(name="a", model="m")
    assert engines.resolved_dtype(auto, cuda=False) == expected
    assert engines.resolved_dtype(auto, cuda=True) == "auto"
    named = ExpertConfig(name="a", model="m", dtype="float16")
    assert engines.resolved_dtype(named, cuda=False) == "float16"
