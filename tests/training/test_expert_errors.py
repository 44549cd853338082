"""What jobs that make experts, and the adapters they save, are refused for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blender_med.errors import ConfigError, DataError, ExpertError
from blender_med.experts.adapters import check_adapter
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.store.manifest import Manifest, write_manifest
from blender_med.training.expert_config import load_expert_job
from blender_med.training.expert_jobs import expert_task
from blender_med.training.finetune_trainer import FinetuneTrainer, memory_explained
from blender_med.training.job import bring_up_to_date

from .fuser_toy import save_llama
from .tuning_toy import save_base, save_rows, toy_rows, tuning_tree

MakeTree = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return save_base(tmp_path_factory.mktemp("experts"), tiny_llama)


@pytest.fixture
def make_tree(base: Path, tmp_path: Path) -> MakeTree:
    data = save_rows(tmp_path / "questions.jsonl", toy_rows(40))
    return lambda **top: tuning_tree(base, data, written_questions=0, **top)


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ({"lora": None, "quantization": "4bit"}, "'quantization' needs 'lora'"),
        ({"lora": None, "save": "adapter"}, "'save: adapter' needs 'lora'"),
        ({"lora": None, "backend": "unsloth"}, "'backend: unsloth' needs 'lora'"),
        ({"lora": {"r": 640}, "save": "adapter"}, r"no adapter of rank 640.*512"),
        ({"answer_length": 64}, "leaves no room for a prompt"),
        ({"expert": {"model": "x"}}, "the job decides on 'model'"),
        ({"expert": {"templat": "qa"}}, "did you mean 'template'"),
        ({"job": "finetun"}, "did you mean 'finetune'"),
        ({"data": {"sources": [{"type": "pmc_oa"}]}}, "this type holds passages"),
        ({"data": {"sources": [{"type": "jsonl", "options": {"x": 1}}]}}, "unknown option"),
        ({"data": {"sources": []}}, "at least 1"),
        ({"trainig": {}}, "did you mean 'training'"),
    ],
)
def test_recipes_that_cannot_be_right(make_tree, top, said) -> None:
    with pytest.raises(ConfigError, match=said):
        load_expert_job(make_tree() | top)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    ("top", "key"),
    [({"quantization": "4bit"}, "quantization"), ({"backend": "unsloth"}, "backend")],
)
def test_settings_that_need_cuda(make_tree, tmp_path, top, key) -> None:
    with pytest.raises(ConfigError, match="needs CUDA, and this machine has none") as caught:
        bring_up_to_date(expert_task(load_expert_job(make_tree(**top))), tmp_path / "t")
    assert caught.value.key == key


def test_a_lack_of_memory_names_the_settings(make_tree, tmp_path, monkeypatch) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FinetuneTrainer, "compute_loss", fail)
    with pytest.raises(ExpertError, match="out of memory while tuning") as caught:
        bring_up_to_date(expert_task(load_expert_job(make_tree())), tmp_path / "t")
    for setting in ("training.micro_batch_size", "max_length", "gradient_checkpointing"):
        assert setting in caught.value.fix


def test_what_torch_says_on_a_cpu_is_a_lack_of_memory_too() -> None:
    said = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB"
    with pytest.raises(ExpertError, match="out of memory"), memory_explained():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), memory_explained():
        raise RuntimeError("shapes do not match")


def test_nothing_to_learn_from_says_why(make_tree) -> None:
    tree = make_tree()
    tree["data"]["sources"][0]["where"] = {"subject": ["none"]}
    with pytest.raises(DataError, match=r"no row has one of these values.*even"):
        expert_task(load_expert_job(tree))
    with pytest.raises(ConfigError, match="names no data"):
        expert_task(load_expert_job(make_tree() | {"data": None}))


def test_a_run_to_hold_out_must_be_prepared(make_tree, tmp_path) -> None:
    tree = make_tree()
    tree["data"]["hold_out"] = str(tmp_path)
    with pytest.raises(ConfigError, match="no such run"):
        expert_task(load_expert_job(tree))


def test_bases_without_whole_weights(make_tree, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no weights here"):
        expert_task(load_expert_job(make_tree() | {"base": "fake"}))
    with pytest.raises(ConfigError, match="no such expert recipe"):
        expert_task(load_expert_job(make_tree() | {"base": "smolm2-135m"}))


def test_rows_longer_than_the_model(make_tree, tmp_path) -> None:
    tree = make_tree(max_length=300)
    with pytest.raises(ConfigError, match="the model has 256 positions"):
        bring_up_to_date(expert_task(load_expert_job(tree)), tmp_path / "t")


def test_an_expert_that_is_made_from_itself(make_tree, tmp_path) -> None:
    file = tmp_path / "circle.yaml"
    file.write_text(yaml.safe_dump(make_tree() | {"base": str(file)}))
    with pytest.raises(ConfigError, match="made from itself"):
        load_expert_config(file)


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def _config(model: Path, lora: Path) -> ExpertConfig:
    tree = {"name": "adapted", "model": str(model), "lora": str(lora)}
    return ExpertConfig.model_validate(tree)


def test_an_adapter_of_this_base_passes(adapter, tiny_llama) -> None:
    check_adapter(_config(tiny_llama, adapter), tiny_llama, "sha256:a", "vllm")
    check_adapter(_config(tiny_llama, adapter), Path("a/hub-id"), "hub:a", "vllm")


def test_an_adapter_for_another_base_is_refused(adapter, tmp_path) -> None:
    wider = save_llama(tmp_path / "wider", hidden_size=64)
    with pytest.raises(
        ExpertError, match=r"another base: model\.layers\.0\.mlp\.down_proj has shape \[32, 2\]"
    ):
        check_adapter(_config(wider, adapter), wider, "sha256:a", "vllm")
    fewer = save_llama(tmp_path / "fewer", num_hidden_layers=1)
    with pytest.raises(ExpertError, match="no such layer"):
        check_adapter(_config(fewer, adapter), fewer, "sha256:a", "transformers")


def test_an_adapter_of_ours_knows_its_base(adapter, tiny_llama) -> None:
    manifest = Manifest(
        stage="expert", fingerprint="f", identity={"base": "sha256:a"}, inputs={}, parts={},
        rows=0, seconds=1.0, finished="", provenance={},
    )  # fmt: skip
    write_manifest(adapter, manifest)
    check_adapter(_config(tiny_llama, adapter), tiny_llama, "sha256:a", "vllm")
    with pytest.raises(ExpertError, match="tuned on other weights"):
        check_adapter(_config(tiny_llama, adapter), tiny_llama, "sha256:b", "vllm")


def test_a_rank_above_the_engines_limit(adapter, tiny_llama) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 513}))
    with pytest.raises(ExpertError, match=r"rank 513 is above the engine's limit 512"):
        check_adapter(_config(tiny_llama, adapter), tiny_llama, "sha256:a", "vllm")
    check_adapter(_config(tiny_llama, adapter), tiny_llama, "sha256:a", "transformers")


def test_a_folder_without_an_adapter(tiny_llama, tmp_path) -> None:
    with pytest.raises(ExpertError, match="holds no adapter"):
        check_adapter(_config(tiny_llama, tmp_path), tiny_llama, "sha256:a", "vllm")
