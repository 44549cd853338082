"""What keeps hostile inputs and secrets in their place; docs/security.md says the same in words."""

from __future__ import annotations

import ast
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import blender_med
from blender_med.config import load_yaml, parse
from blender_med.errors import BlenderMedError, ConfigError, DataError, ExpertError, redacted
from blender_med.experts import ExpertConfig, load_expert
from blender_med.experts.local import load_tokenizer
from blender_med.experts.requests import EngineSpec
from blender_med.experts.vllm import vllm_arguments
from blender_med.recipes_folder import shipped_recipes
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import save_recipe as keep_recipe

PACKAGE = Path(blender_med.__file__).parent
KEY = "sk-live0123456789abcdef"


def _calls() -> list[tuple[str, str]]:
    """Every call in the package as (module, dotted name)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found.append((str(path.relative_to(PACKAGE)), ast.unparse(node.func)))
    return found


def test_no_call_that_runs_what_it_reads() -> None:
    calls = _calls()
    assert len(calls) > 1000
    forbidden = {
        "eval", "exec", "compile", "pickle.load", "pickle.loads", "joblib.load", "os.system",
        "yaml.full_load", "yaml.unsafe_load", "marshal.loads",
    }  # fmt: skip
    assert not [call for call in calls if call[1] in forbidden]


def test_yaml_torch_and_numpy_load_data_alone() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, arguments = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            if name == "yaml.load":
                assert ast.unparse(arguments["Loader"]) == "_StrictLoader", path
            if name == "torch.load":
                assert ast.unparse(arguments["weights_only"]) == "True", path
            if name in ("np.load", "numpy.load"):
                assert ast.unparse(arguments["allow_pickle"]) == "False", path
            if name.startswith("subprocess."):
                assert "shell" not in arguments, path


def test_trust_remote_code_comes_from_the_recipe_or_is_off() -> None:
    allowed = {"False", "config.trust_remote_code"}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) in allowed, path
    assert not ExpertConfig(name="x", model="m").trust_remote_code
    for recipe in shipped_recipes():
        assert "trust_remote_code" not in recipe.read_text("utf-8")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['id']", "!!python/name:os.x"])
def test_a_recipe_makes_no_objects(tmp_path, text) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(f"name: {text}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(file)


@pytest.fixture
def coded(tmp_path) -> Path:
    """A model folder that brings code of its own, which leaves a trace when it is run."""
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto = {"AutoConfig": "own.OwnConfig", "AutoTokenizer": ["own.OwnTokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    return tmp_path


def test_code_of_a_model_is_not_run(coded) -> None:
    from blender_med.models import load_config
    from blender_med.models import load_tokenizer as metric_tokenizer

    with pytest.raises(BlenderMedError):
        load_config(coded)
    with pytest.raises(BlenderMedError):
        metric_tokenizer(coded)
    expert = ExpertConfig(name="own", engine="transformers", model=str(coded))
    with pytest.raises(ExpertError):
        load_tokenizer(expert)
    assert not (coded / "ran").exists()


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_of_an_expert_is_refused(tmp_path) -> None:
    from blender_med.experts.transformers import _load_model

    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 8}
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"architectures": ["GPT2LMHeadModel"]})
    )
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for allowed in (False, True):
        expert = ExpertConfig(
            name="x", engine="transformers", model=str(tmp_path), allow_pickle=allowed
        )
        with pytest.raises(Exception, match=r"(?i)safetensors|weights|pickl"):
            _load_model(EngineSpec("transformers", expert, str(tmp_path), None, (), False))
    assert not (tmp_path / "ran").exists()


def test_vllm_reads_safetensors_unless_told(tmp_path) -> None:
    def load_format(**values: Any) -> Any:
        config = ExpertConfig(name="x", model="m", **values)
        return vllm_arguments(EngineSpec("vllm", config, "m", None, (), True))["load_format"]

    assert load_format() == "safetensors"
    assert load_format(allow_pickle=True) is None
    assert load_format(quantization="bitsandbytes") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"openai": {"base_url": f"https://me:{KEY}@host/v1"}},
        {"openai": {"base_url": f"https://host/v1?key={KEY}"}},
        {"openai": {"base_url": "https://host/v1", "api_key": KEY}},
        {"openai": {"base_url": "https://host/v1", "api_key_env": KEY}},
        {"openai": {"base_url": "https://host/v1"}, "engine_options": {"api_key": KEY}},
        {
            "openai": {"base_url": "https://host/v1"},
            "engine_options": {"headers": [{"Authorization": f"Bearer {KEY}"}]},
        },
        {"engine": "vllm", "engine_options": {"hf_token": KEY}},
    ],
)
def test_a_key_in_a_recipe_is_refused_and_not_shown(wrong) -> None:
    tree = {"name": "x", "engine": "openai", "model": "m"} | wrong
    with pytest.raises(ConfigError, match="Fix: ") as caught:
        parse(ExpertConfig, tree)
    assert KEY not in str(caught.value)


def test_engine_options_that_only_sound_like_keys() -> None:
    options = {"max_num_batched_tokens": 4096, "stop_token_ids": [1], "pad_token_id": 0}
    assert ExpertConfig(name="x", model="m", engine_options=options).engine_options == options


def test_the_key_of_a_server_is_nowhere_in_a_run(
    server, recipe_tree, save_recipe, tmp_path, monkeypatch, capsys, caplog
) -> None:
    from blender_med.cli import app
    from blender_med.experts import openai as module

    own = logging.getLogger("blender_med")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(own, name, getattr(own, name))  # run_app changes them

    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)
    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.setenv("BLENDER_MED_CACHE", str(tmp_path / "cache"))
    address = f"http://127.0.0.1:{server.server_port}/v1"
    server_settings = {"base_url": address, "api_key_env": "SERVER_KEY", "retries": 1}
    recipe_tree["experts"][0] = {
        "name": "served", "engine": "openai", "model": "m", "openai": server_settings,
    }  # fmt: skip
    recipe_tree["stages"] = recipe_tree["stages"][:2]
    path = str(save_recipe(recipe_tree))
    server.script = [None] * 3 + [(401, f"no access for {KEY}", {})]
    caplog.set_level(0)
    for code in (1, 0):
        monkeypatch.setattr("sys.argv", ["blender-med", "run", path])
        assert app.run_app() == code
    assert server.tokens == {f"Bearer {KEY}"}
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(files) > 10
    assert not [f for f in files if KEY.encode() in f.read_bytes()]


def test_the_environment_is_not_kept(recipe_tree, save_recipe, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    run = open_recipe(save_recipe(recipe_tree))
    keep_recipe(run)
    assert KEY not in (run.folder / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"bad key {KEY}", "bad key sk-***"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ("https://host/v1?api-key=abc&x=1", "https://host/v1?api-key=***&x=1"),
        ("http://me:pass@host/x", "http://***@host/x"),
        ("{'api_key': 'abc', 'x': 1}", "{'api_key': ***, 'x': 1}"),
        (r"{\'api_key\': \'a\\\'bc\', \'x\': 1}", r"{\'api_key\': ***, \'x\': 1}"),
        ("{'password': 'abc", "{'password': ***"),
        ("task-specific and risk-adjusted", "task-specific and risk-adjusted"),
        ("max_num_batched_tokens: 5", "max_num_batched_tokens: 5"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text, shown) -> None:
    assert redacted(text) == shown


def test_the_fix_stands_after_a_key_that_the_cut_left_open() -> None:
    text = str(BlenderMedError("wrong", fix="Mend it.", value={"x": "-" * 170, "token": KEY * 9}))
    assert KEY not in text and text.endswith("Fix: Mend it.")


def test_unsafe_xml_reaches_no_file(tmp_path) -> None:
    from blender_med.data import load_passages, load_questions

    (tmp_path / "secret").write_text("the secret")
    doctype = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    for name, kind, body in (
        ("a.xml", "medquad", "<Document id='1'><QAPairs>&x;</QAPairs></Document>"),
        ("b.nxml", "pmc_oa", "<article><body><p>&x;</p></body></article>"),
        ("c.xml", "pubmed_abstracts", "<PubmedArticleSet>&x;</PubmedArticleSet>"),
    ):
        path = tmp_path / name
        path.write_text(doctype + body)
        load: Any = load_questions if kind == "medquad" else load_passages
        with pytest.raises(DataError) as caught:
            load(kind, path)
        assert "the secret" not in str(caught.value)


def test_a_fake_expert_needs_nothing() -> None:
    assert load_expert(ExpertConfig(name="x", engine="fake")).revision.startswith("fake:")
