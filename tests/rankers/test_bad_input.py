"""Every ranker on bad input and bad checkpoints: a clear error or a defined result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blender_med.data.pairs import RankingExample
from blender_med.errors import BlenderMedError, ConfigError, DataError
from blender_med.rankers import RANKERS
from blender_med.rankers.checkpoint import load_ranker

LENGTHS = {"source_maxlength": 24, "candidate_maxlength": 24}
TRAINED = ("pairranker", "simcls", "summareranker")
HEADS = {
    "reward": ("AutoModelForSequenceClassification", {"num_labels": 1}),
    "mlm": ("AutoModelForMaskedLM", {}),
    "embedding": ("AutoModel", {}),
}
WITH_MODEL = (*TRAINED, *HEADS)
SETTINGS: dict[str, dict[str, Any]] = {"reward": LENGTHS, "mlm": LENGTHS}
SETTINGS["embedding"] = {"max_length": 40}
# A weight that every one of them has.
WEIGHT = "layer.1.output.dense.weight"


@pytest.fixture(scope="module")
def checkpoints(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """A tiny random model of each type."""
    encoder = tiny_model("bert", initializer_range=0.5)
    folders = {}
    for kind in TRAINED:
        folders[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        RANKERS.load(kind).from_backbone(encoder, **LENGTHS).save_pretrained(folders[kind])
    for kind, (auto_class, fields) in HEADS.items():
        folders[kind] = tiny_model("bert", auto_class, initializer_range=0.5, **fields)
    return folders


@pytest.fixture(scope="module")
def rankers(checkpoints) -> dict[str, Any]:
    loaded = {kind: load(kind, checkpoints[kind]) for kind in WITH_MODEL}
    bm25 = RANKERS.load("bm25")()
    mean = RANKERS.load("mean")([(bm25, {}), (loaded["embedding"], {})])
    return loaded | {"bm25": bm25, "mean": mean}


@pytest.fixture
def copied(checkpoints, tmp_path) -> Callable[[str], Path]:
    """A copy of a type's checkpoint, to be spoilt."""
    return lambda kind: shutil.copytree(checkpoints[kind], tmp_path / kind)


def load(kind: str, folder: Path, **settings: Any) -> Any:
    own = {"device": "cpu"} | SETTINGS.get(kind, {}) | settings
    return RANKERS.load(kind).from_pretrained(folder, **own)


every_ranker = pytest.mark.parametrize("kind", tuple(RANKERS))
every_model = pytest.mark.parametrize("kind", WITH_MODEL)


@every_ranker
def test_no_candidate_is_an_error_that_names_the_question(kind, rankers) -> None:
    with pytest.raises(DataError, match=r"row 2: no candidate to rank .*leave the question out"):
        rankers[kind].rank(["q", "r"], [["a"], []])


@every_ranker
def test_no_question_gives_no_ranking(kind, rankers) -> None:
    assert rankers[kind].rank([], []) == []


@every_ranker
@pytest.mark.parametrize("source", ["", "what is it?"])
def test_empty_candidates_alone_tie(kind, rankers, source) -> None:
    [ranking] = rankers[kind].rank([source], [["", "", ""]])
    assert ranking.ranks == (1, 1, 1)
    assert len(set(ranking.scores)) == 1
    assert np.isfinite(ranking.scores).all()


@every_ranker
def test_blank_candidates_stand_beside_others(kind, rankers) -> None:
    [ranking] = rankers[kind].rank(["what is it?"], [["", " \n", "it is a cough"]])
    assert np.isfinite(ranking.scores).all()
    assert min(ranking.ranks) == 1


@every_ranker
def test_a_candidate_of_100000_words_is_cut(kind, rankers) -> None:
    long = "cough and pain " * 33_334
    [ranking] = rankers[kind].rank(["what is it?"], [[long, "a cough", long + "more"]])
    assert np.isfinite(ranking.scores).all()
    if kind != "bm25":
        # Equal as far as the model reads them; BM25 reads them whole.
        assert ranking.scores[0] == ranking.scores[2]
        assert ranking.tokens < 2_000
    [ranking] = rankers[kind].rank([long], [["a cough", "a pain"]])
    assert np.isfinite(ranking.scores).all()


@every_ranker
@pytest.mark.parametrize(
    ("sources", "groups", "message"),
    [
        ("q", [["a"]], "sources is one text"),
        (["q"], [None], "row 1: no candidate"),
        (["q"], ["ab"], "row 1: no candidate"),
        (["q"], [["a", None]], "row 1: a text is no string"),
        (["q"], [["a", float("nan")]], "row 1: a text is no string"),
        (["q", "r"], [["a"]], "2 sources but 1 lists"),
        (["q"], [["a", "b\ud83d"]], "row 1: a text holds half a character at position 1"),
    ],
)
def test_what_is_no_text_is_named(kind, rankers, sources, groups, message) -> None:
    with pytest.raises(DataError, match=message):
        rankers[kind].rank(sources, groups)


@every_model
@pytest.mark.parametrize("batch_tokens", [0, -1])
def test_a_batch_without_room_is_an_error(kind, rankers, batch_tokens) -> None:
    with pytest.raises(ConfigError, match=f"'batch_tokens'.*received {batch_tokens}"):
        rankers[kind].rank(["q"], [["a", "b"]], batch_tokens=batch_tokens)


def _change_weights(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights, next(name for name in weights if name.endswith(WEIGHT)))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def _write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _change_config(**fields: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return spoil


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _more_tokens_than_embeddings(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["stranger"])
    tokenizer.save_pretrained(folder)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing weight": (_change_weights(lambda w, name: w.pop(name)), WEIGHT),
    "wrong shape": (_change_weights(lambda w, name: w.update({name: torch.zeros(3, 3)})), WEIGHT),
    "damaged weights": (_write("model.safetensors", b"damaged"), "header"),
    "empty weights": (_write("model.safetensors", b""), "header"),
    "no weights": (_unlink("model.safetensors"), r"model\.safetensors"),
    "pickle": (_pickle, r"pytorch_model\.bin.*pickle.*allow_pickle"),
    "no configuration": (_unlink("config.json"), r"config\.json"),
    "configuration no JSON": (_write("config.json", b"{"), "no readable configuration"),
    "configuration a list": (_write("config.json", b"[]"), "not a JSON object"),
    "unknown model type": (_change_config(model_type="zork"), "zork"),
    "tokenizer no JSON": (_write("tokenizer.json", b"{"), "cannot be read"),
    "tokenizer of a larger model": (_more_tokens_than_embeddings, "tokens up to"),
}


@every_model
@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_checkpoint_is_a_clear_error(kind, fault, copied) -> None:
    folder = copied(kind)
    spoil, message = SPOILT[fault]
    spoil(folder)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        load(kind, folder)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind not in ("mlm", "embedding"):
        with pytest.raises(BlenderMedError):
            load_ranker(folder, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("backbone_config", [None, {"model_type": "bert", "hidden_size": "many"}])
def test_a_backbone_that_is_not_described_is_a_clear_error(kind, backbone_config, copied) -> None:
    folder = copied(kind)
    _change_config(backbone_config=backbone_config)(folder)
    with pytest.raises(DataError, match="cannot be read"):
        load(kind, folder)


@every_model
def test_an_allowed_pickle_is_read(kind, rankers, copied) -> None:
    folder = copied(kind)
    _pickle(folder)
    found = load(kind, folder, allow_pickle=True).rank(["q"], [["a", "b"]])
    assert found[0].scores == pytest.approx(rankers[kind].rank(["q"], [["a", "b"]])[0].scores)


class _Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("payload-ran"),)


@every_model
def test_an_allowed_pickle_runs_no_code(kind, copied, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied(kind)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError):
        load(kind, folder, allow_pickle=True)
    assert not (tmp_path / "payload-ran").exists()


@pytest.mark.parametrize("kind", TRAINED)
def test_a_pickled_backbone_is_refused_unless_allowed(kind, copied) -> None:
    folder = copied("embedding")
    _pickle(folder)
    train = RANKERS.load(kind).from_backbone
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*pickle"):
        train(folder, **LENGTHS)
    assert train(folder, allow_pickle=True, **LENGTHS).rank(["q"], [["a"]])[0].ranks == (1,)


@every_model
def test_a_tokenizer_without_special_tokens_is_a_clear_error(kind, copied) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = copied(kind)
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tree = json.loads(backend.to_str()) | {"post_processor": None, "added_tokens": []}
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"special token|no token around"):
        load(kind, folder).rank(["q"], [["a", "b"]])


@every_model
def test_weights_that_are_not_finite_give_no_ranking(kind, copied) -> None:
    folder = copied(kind)
    _change_weights(lambda weights, name: weights[name].fill_(float("nan")))(folder)
    with pytest.raises(DataError, match="not finite"):
        load(kind, folder).rank(["q"], [["a", "b"]])


@every_model
@pytest.mark.parametrize("device", ["zork", "cuda:99"])
def test_an_unknown_device_is_a_clear_error(kind, checkpoints, device) -> None:
    with pytest.raises(ConfigError, match=f"'device'.*{device}"):
        load(kind, checkpoints[kind], device=device)


@pytest.mark.parametrize("kind", ["pairranker", "reward", "mlm"])
@pytest.mark.parametrize("key", ["source_maxlength", "candidate_maxlength"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_length_without_room_is_a_clear_error(kind, checkpoints, key, value) -> None:
    with pytest.raises(ConfigError, match=f"'{key}'.*received {value}"):
        load(kind, checkpoints[kind], **{key: value})


def test_a_pair_needs_room_for_more_than_its_prefix(checkpoints) -> None:
    # [CLS] <|candidate|> [SEP]: all candidates would look alike.
    ranker = load("pairranker", checkpoints["pairranker"], candidate_maxlength=3)
    with pytest.raises(ConfigError, match=r"'candidate_maxlength'.*received 3.*at least 4"):
        ranker.rank(["q"], [["a", "b"]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_label_that_is_not_finite_is_a_clear_error(value) -> None:
    with pytest.raises(DataError, match=r"question q1: a label is not finite.*leave out"):
        RankingExample("q1", "q", ("a", "b"), np.array([[0.0], [value]]))


@pytest.mark.parametrize("labels", [np.zeros(2), np.zeros((3, 1))])
def test_labels_that_do_not_fit_the_candidates_are_a_clear_error(labels) -> None:
    with pytest.raises(DataError, match=r"question q1: 2 candidates, labels \("):
        RankingExample("q1", "q", ("a", "b"), labels)


@pytest.mark.parametrize("kind", TRAINED)
def test_equal_labels_give_a_finite_loss(kind, rankers) -> None:
    example = RankingExample("q1", "q", ("a", "b", "c"), np.full((3, 1), 0.5))
    ranker = rankers[kind]
    batch = ranker.training_batch([example], np.random.default_rng(0))
    with torch.inference_mode():
        loss = ranker(**batch).loss.item()
    # PairRanker: log 2, the value of a tie; SimCLS: nothing is asked of equal labels.
    assert loss == pytest.approx({"pairranker": np.log(2), "simcls": 0.0}.get(kind, loss), abs=1e-6)
    assert np.isfinite(loss)
