from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blender_med.errors import ConfigError
from blender_med.experts import ExpertConfig, engine_key, load_expert_config, load_experts

NAMES = (
    "biogpt",
    "biogpt-large",
    "biomistral-7b",
    "biomistral-7b-awq",
    "biomistral-7b-bnb",
    "fake",
)
NAMES += ("gemma3-270m", "llama-2-7b-chat", "medalpaca-7b", "mistral-7b-instruct", "smollm2-135m")


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_of_the_project(name: str) -> None:
    config = load_expert_config(name)
    assert config.name == name
    assert config.description
    assert config.engine == "fake" or config.license


def test_a_path_a_folder_and_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nengine: fake\n")
    assert load_expert_config(file).name == "mine"
    assert load_expert_config("mine", folder=tmp_path).name == "mine"
    assert load_expert_config({"name": "x", "engine": "fake"}).name == "x"


def test_the_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts" / "fake.yaml").write_text("name: mine\nengine: fake\n")
    monkeypatch.chdir(tmp_path)
    assert load_expert_config("fake").name == "mine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm2-153m", "did you mean 'smollm2-135m'"),
        ({"name": "x", "engine": "fake", "modle": "y"}, "key 'modle'.*did you mean 'model'"),
        ({"name": "x"}, "exactly one of 'model' and 'package'"),
        ({"name": "x", "engine": "fake", "template": "chatml"}, "unknown prompt template"),
        ({"name": "x", "model": "m", "engine": "openai"}, "section 'openai'"),
        ({"name": "x", "package": "p; rm"}, "name or name==version"),
        ({"name": "x", "model": "./none"}, "key 'model': no such model folder"),
        ({"name": "x", "model": "org/name/more"}, "key 'model': no such model folder"),
        ({"name": "x", "model": "org/name", "lora": "/none"}, "key 'lora': no such model folder"),
        (
            {"name": "x", "engine": "fake", "engine_options": {"accuracy": 2}},
            "key 'engine_options.accuracy': input should be less than or equal to 1",
        ),
    ],
)
def test_mistakes_name_the_fix(source: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_expert_config(source)  # type: ignore[arg-type]


def test_mistakes_name_the_place_in_the_calling_recipe() -> None:
    place = {"key": "experts.1", "file": "pipeline.yaml"}
    with pytest.raises(ConfigError, match=r"pipeline\.yaml, key 'experts\.1\.template'"):
        load_expert_config({"name": "x", "engine": "fake", "template": "none"}, **place)
    with pytest.raises(ConfigError, match=r"pipeline\.yaml, key 'experts\.1': no such expert"):
        load_expert_config("none", **place)


def test_a_server_names_its_models_as_it_likes_and_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = {"base_url": "http://localhost:1/v1"}
    load_expert_config({"name": "x", "engine": "openai", "model": "/models/x", "openai": server})
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "adapter").mkdir()
    config = load_expert_config({"name": "x", "model": "m", "lora": "~/adapter"})
    assert config.lora == str(tmp_path / "adapter")


def config(**values: object) -> ExpertConfig:
    return ExpertConfig.model_validate({"name": "a", "model": "org/base", **values})


def test_adapters_of_one_base_share_an_engine() -> None:
    base = config()
    assert engine_key(base) == engine_key(config(name="b", lora="adapter", template="alpaca"))
    assert engine_key(base) == engine_key(config(sampling={"temperature": 0.5}))
    assert engine_key(base) != engine_key(config(dtype="float32"))
    assert engine_key(base) != engine_key(config(tokenizer="org/other"))
    assert engine_key(base) != engine_key(base, device="cuda:1")
    fakes = [ExpertConfig(name=n, engine="fake") for n in ("a", "b")]
    assert engine_key(fakes[0]) != engine_key(fakes[1])


def test_experts_come_in_order() -> None:
    fakes = [ExpertConfig(name=n, engine="fake") for n in ("b", "a")]
    assert [e.config.name for e in load_experts(fakes)] == ["b", "a"]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from blender_med.experts import *; c = load_expert_config('smollm2-135m');"
        "engine_choice; e = load_expert(load_expert_config('fake')); e.revision;"
        "print(sorted({'torch', 'transformers', 'vllm', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
