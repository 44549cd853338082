"""Quantised experts: calibration text, files, figures, what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blender_med.errors import ConfigError, DataError, MissingDependencyError
from blender_med.experts.loading import load_expert_config
from blender_med.training.engine_figures import engine_figures
from blender_med.training.expert_config import load_expert_job
from blender_med.training.expert_jobs import expert_task
from blender_med.training.job import bring_up_to_date
from blender_med.training.quantise_job import four_bit_groups

from .fuser_toy import save_llama
from .tuning_toy import save_base, save_rows, toy_rows

needs_compressor = pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is None, reason="llmcompressor is not installed"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantise")
    model = save_llama(folder / "model", hidden_size=64, intermediate_size=64)
    return save_base(folder, model, dtype="bfloat16")


@pytest.fixture
def make_tree(base: Path, tmp_path: Path) -> Callable[..., Tree]:
    data = save_rows(tmp_path / "questions.jsonl", toy_rows(20))

    def make(scheme: str = "W8A8", **top: Any) -> Tree:
        source = {"type": "jsonl", "path": str(data)} | top.pop("source", {})
        tree = {"job": "quantise", "name": "small", "base": str(base), "scheme": scheme}
        calibration = {"source": source, "samples": 8, "max_length": 32}
        return tree | {"calibration": calibration, "measured_questions": 0, "group_size": 32} | top

    return make


def test_calibration_text_is_what_the_expert_reads(make_tree) -> None:
    task: Any = expert_task(load_expert_job(make_tree()))
    texts = task._texts()
    assert len(texts) == 8
    from blender_med.experts.local import load_tokenizer

    first = load_tokenizer(task._base).decode(texts[0])
    assert first.startswith("<|im_start|>user\nwhich one fever ?<|im_end|>")
    assert all(len(ids) <= 32 for ids in texts)
    assert task.counts() == {"calibration": 8, "measured": 0}


def test_no_calibration_text_is_an_error(make_tree, tmp_path) -> None:
    data = save_rows(tmp_path / "test.jsonl", [row | {"split": "test"} for row in toy_rows(4)])
    task = expert_task(load_expert_job(make_tree(source={"path": str(data)})))
    with pytest.raises(DataError, match="there is no calibration text"):
        task.counts()


def test_an_empty_file_is_an_error(make_tree, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    task = expert_task(load_expert_job(make_tree(source={"path": str(tmp_path / "empty.jsonl")})))
    with pytest.raises(DataError, match="empty"):
        task.counts()


def test_passages_do_not_calibrate(make_tree) -> None:
    with pytest.raises(ConfigError, match="this type holds passages"):
        load_expert_job(make_tree(source={"type": "pmc_oa"}))


def test_four_bits_by_scheme(make_tree) -> None:
    for scheme, symmetric in (("AWQ", False), ("GPTQ", True)):
        job: Any = load_expert_job(make_tree(scheme))
        weights = four_bit_groups(job)["group_0"]["weights"]
        assert (weights["num_bits"], weights["symmetric"]) == (4, symmetric)
        assert (weights["strategy"], weights["group_size"]) == ("group", 32)


def test_a_missing_library_is_named(make_tree, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llmcompressor", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llmcompressor"):
        bring_up_to_date(expert_task(load_expert_job(make_tree())), tmp_path / "small")


def test_a_quantised_expert_is_no_base(make_tree, tmp_path) -> None:
    file = save_base(tmp_path, tmp_path, "quantised", quantization="awq")
    with pytest.raises(ConfigError, match="this expert is quantised"):
        expert_task(load_expert_job(make_tree(base=str(file))))


@needs_compressor
@pytest.mark.parametrize(
    "scheme", ["W8A8", pytest.param("AWQ", marks=[pytest.mark.gpu, needs_cuda]), "GPTQ"]
)
def test_weights_are_stored_in_few_bits(make_tree, base, tmp_path, scheme) -> None:
    folder = tmp_path / "small"
    assert bring_up_to_date(expert_task(load_expert_job(make_tree(scheme))), folder)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    (group,) = config["config_groups"].values()
    assert group["weights"]["num_bits"] == (8 if scheme == "W8A8" else 4)
    assert (group["input_activations"] is not None) == (scheme == "W8A8")
    before = Path(str(load_expert_config(base).model)) / "model.safetensors"
    after = next(folder.glob("*.safetensors"))
    assert after.stat().st_size < before.stat().st_size
    assert not bring_up_to_date(expert_task(load_expert_job(make_tree(scheme))), folder)


@needs_compressor
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_awq_says_what_it_needs(make_tree, tmp_path) -> None:
    with pytest.raises(ConfigError, match="AWQ needs CUDA"):
        bring_up_to_date(expert_task(load_expert_job(make_tree("AWQ"))), tmp_path / "small")


def test_figures_of_an_engine(make_tree, base) -> None:
    task: Any = expert_task(load_expert_job(make_tree(measured_questions=2)))
    expert = load_expert_config(base).model_copy(update={"max_model_len": 200})
    figures = engine_figures(expert, task._measured)
    size = (Path(str(expert.model)) / "model.safetensors").stat().st_size
    assert figures["weights, MiB"] == pytest.approx(size / 2**20)
    assert figures["engine's memory, MiB"] > 50
    assert figures["tokens per second"] > 0
    assert figures["logprob of a reference"] < 0
    assert 0 <= figures["rougeL"] <= 1
