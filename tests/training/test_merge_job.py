"""Merges of experts: what mergekit is asked, what comes out, what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.experts.config import Sampling
from blender_med.experts.loading import load_expert_config
from blender_med.experts.requests import EngineSpec, GenerateRequest
from blender_med.experts.transformers import TransformersEngine
from blender_med.training import merge_job
from blender_med.training.expert_config import MergeJob, load_expert_job
from blender_med.training.expert_jobs import expert_task
from blender_med.training.job import bring_up_to_date
from blender_med.training.merge_config import mergekit_config

from .fuser_toy import CHAT_TEMPLATE, save_llama, toy_tokenizer
from .tuning_toy import save_base

needs_mergekit = pytest.mark.skipif(
    importlib.util.find_spec("mergekit") is None, reason="mergekit is not installed"
)
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Three tiny Llamas of one shape, and the recipes of their experts."""
    folder = tmp_path_factory.mktemp("merge")
    save_base(folder, tiny_llama, "base")
    for name, spread in (("one", 0.1), ("two", 0.3)):
        model = save_llama(folder / f"model-{name}", initializer_range=spread)
        save_base(folder, model, name)
    return folder


@pytest.fixture
def make_tree(folder: Path) -> Callable[..., Tree]:
    def make(method: str, *models: str, **top: Any) -> Tree:
        own = [{"expert": str(folder / f"{name}.yaml")} for name in models]
        tree = {"job": "merge", "name": "merged", "base": str(folder / "base.yaml")}
        return tree | {"method": method, "models": own, "dtype": "float32"} | top

    return make


def _merge(tree: Tree, out: Path) -> dict[str, torch.Tensor]:
    assert bring_up_to_date(expert_task(load_expert_job(tree)), out)
    return load_file(next(out.glob("*.safetensors")))


def _weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    model = str(load_expert_config(folder / f"{name}.yaml").model)
    return load_file(Path(model) / "model.safetensors")


def test_what_mergekit_is_asked(make_tree) -> None:
    job = load_expert_job(make_tree("ties", "one", t=0.5))
    assert isinstance(job, MergeJob)
    folders = {name: Path(f"/m/{i}") for i, name in enumerate((job.base, job.models[0].expert))}
    base, one = ({"path": "/m/0"}, {"path": "/m/1"})
    assert mergekit_config(job, folders) == {
        "merge_method": "ties",
        "dtype": "float32",
        "base_model": {"model": base},
        "models": [{"model": {"model": one}, "parameters": {"weight": 1.0, "density": 1.0}}],
        "parameters": {"normalize": True},
    }
    way = {"mlp": [0, 1], "*": 0.25}
    job = load_expert_job(make_tree("slerp", "one", t=way))
    assert isinstance(job, MergeJob)
    tree = mergekit_config(job, folders)
    assert tree["models"] == [{"model": {"model": base}}, {"model": {"model": one}}]
    assert tree["parameters"]["t"] == [{"filter": "mlp", "value": [0, 1]}, {"value": 0.25}]


@needs_mergekit
def test_linear_is_the_weighted_mean(make_tree, folder, tmp_path) -> None:
    tree = make_tree("linear", "one", "two")
    tree["models"][0]["weight"] = 3.0
    made = _merge(tree, tmp_path / "merged")
    one, two = _weights(folder, "one"), _weights(folder, "two")
    for name, weight in made.items():
        torch.testing.assert_close(weight, 0.75 * one[name] + 0.25 * two[name])
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    assert "model soups" in (tmp_path / "merged" / "README.md").read_text()
    task = expert_task(load_expert_job(tree))
    assert not bring_up_to_date(task, tmp_path / "merged")  # nothing has changed


@needs_mergekit
@pytest.mark.parametrize(("t", "same"), [(0.0, "base"), (1.0, "one")])
def test_slerp_goes_from_the_base_to_the_model(make_tree, folder, tmp_path, t, same) -> None:
    made = _merge(make_tree("slerp", "one", t=t), tmp_path / "merged")
    for name, weight in _weights(folder, same).items():
        torch.testing.assert_close(made[name], weight, atol=1e-5, rtol=1e-5)


@needs_mergekit
@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_all_of_one_difference_is_the_model_itself(make_tree, folder, tmp_path, method) -> None:
    made = _merge(make_tree(method, "one"), tmp_path / "merged")
    for name, weight in _weights(folder, "one").items():
        torch.testing.assert_close(made[name], weight, atol=1e-5, rtol=1e-5)


@needs_mergekit
def test_what_dare_drops_follows_from_the_seed(make_tree, tmp_path) -> None:
    def made(seed: int, out: str) -> dict[str, torch.Tensor]:
        tree = make_tree("dare_ties", "one", seed=seed)
        tree["models"][0]["density"] = 0.5
        return _merge(tree, tmp_path / out)

    first, again, other = made(1, "a"), made(1, "b"), made(2, "c")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@needs_mergekit
def test_a_mixture_loads_and_answers(make_tree, folder, tmp_path) -> None:
    tree = make_tree("moe", "one", "two")
    for model, word in zip(tree["models"], ("fever", "liver"), strict=True):
        model["prompts"] = [word]
    assert bring_up_to_date(expert_task(load_expert_job(tree)), tmp_path / "merged")
    recipe = tmp_path / "merged.yaml"
    recipe.write_text(yaml.safe_dump(tree | {"output_dir": str(tmp_path)}))
    made = load_expert_config(recipe)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["MixtralForCausalLM"]
    assert config["num_local_experts"] == 2
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    for number, name in enumerate(("one", "two")):
        own, layer = _weights(folder, name), "model.layers.1"
        for part, kept in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            found = weights[f"{layer}.block_sparse_moe.experts.{number}.{part}.weight"]
            assert torch.equal(found, own[f"{layer}.mlp.{kept}.weight"])
    engine = TransformersEngine(EngineSpec("transformers", made, str(made.model), None, (), False))
    request = GenerateRequest([5, 6, 7], 0)
    ((answer,),) = engine.generate([request], Sampling(max_tokens=4), 1, lambda: None)
    assert answer.completion_tokens >= 1


def _other_architecture(folder: Path) -> Path:
    from transformers import BioGptConfig, BioGptForCausalLM

    config = BioGptConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    BioGptForCausalLM(config).save_pretrained(folder)
    return folder


def _other_words(folder: Path) -> Path:
    save_llama(folder)
    swapped = ("<s>", "</s>", "<|im_end|>", "<|im_start|>")
    tokenizer = toy_tokenizer(swapped, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_other_architecture, "model_type is biogpt in one and llama in the other"),
        (lambda f: save_llama(f, num_hidden_layers=3), "num_hidden_layers is 3 in one and 2"),
        (_other_words, "different vocabularies: token '<|im_end|>' is number 2 in one and 3"),
    ],
)
def test_models_that_are_not_alike_are_refused_before_any_is_read(
    make_tree, folder, tmp_path, monkeypatch, make, said
) -> None:
    save_base(folder, make(tmp_path / "other"), "other")
    monkeypatch.setattr(merge_job, "check_installed", lambda: None)
    monkeypatch.setattr(merge_job, "_merge", _never)
    with pytest.raises(ConfigError) as caught:
        bring_up_to_date(expert_task(load_expert_job(make_tree("ties", "other"))), tmp_path / "m")
    assert said in str(caught.value)
    assert caught.value.key == "models.0.expert"


def _never(*args: Any) -> None:
    raise AssertionError("weights were read")


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ({"method": "slerp", "names": ("one", "two")}, "exactly one model"),
        ({"method": "linear", "names": ("one",)}, "two models at least"),
        ({"method": "moe", "names": ("one", "two")}, "needs 'prompts'"),
        ({"method": "ties", "names": ("one", "one")}, "stands twice"),
        ({"method": "teis", "names": ("one",)}, "method"),
    ],
)
def test_recipes_that_cannot_be_right(make_tree, top, said) -> None:
    with pytest.raises(ConfigError, match=said):
        load_expert_job(make_tree(top["method"], *top["names"]))


def test_adapters_and_stand_ins_are_not_merged(make_tree, folder, tmp_path) -> None:
    file = save_base(folder, tmp_path, "adapted", lora=str(tmp_path))
    with pytest.raises(ConfigError, match=r"is an adapter.*save: merged"):
        expert_task(load_expert_job(make_tree("ties", "one", base=str(file))))
    with pytest.raises(ConfigError, match="no weights here"):
        expert_task(load_expert_job(make_tree("ties", "one", base="fake")))


def test_a_missing_library_is_named(make_tree, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mergekit.merge", None)
    monkeypatch.setitem(__import__("sys").modules, "mergekit", None)
    with pytest.raises(MissingDependencyError, match=r"blender-med\[experts\]"):
        bring_up_to_date(expert_task(load_expert_job(make_tree("ties", "one"))), tmp_path / "m")
