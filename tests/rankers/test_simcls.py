"""SimCLS: cosines, its loss, training batches, save and load."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from blender_med.data.pairs import RankingExample
from blender_med.errors import ConfigError, DataError
from blender_med.rankers.simcls import SimCLS

EXAMPLES = [
    RankingExample(
        "a", "what is a?", ("good", "bad one", "worst"), np.array([[2.0], [1.0], [0.0]])
    ),
    RankingExample("b", "and b?", ("no", "yes"), np.array([[0.1], [0.2]]), reference="yes indeed"),
]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def ranker(request, tiny_model) -> SimCLS:
    folder = tiny_model(request.param)
    return SimCLS.from_backbone(folder, source_maxlength=32, candidate_maxlength=48).eval()


def _vector(ranker: SimCLS, text: str) -> torch.Tensor:
    with torch.no_grad():
        inputs = ranker.tokenizer(text, return_tensors="pt")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        states = ranker.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.normalize(states[0, 0], dim=0)


def test_score_is_the_cosine_of_the_first_tokens(ranker: SimCLS) -> None:
    texts = ["an answer", "another answer", ""]
    [ranking] = ranker.rank(["what?"], [texts])
    expected = [float(_vector(ranker, "what?") @ _vector(ranker, text)) for text in texts]
    assert ranking.scores == pytest.approx(expected, abs=1e-5)
    assert ranking.pairwise_logits is None and ranking.comparisons == 0
    assert ranking.tokens == sum(len(ranker.tokenizer(t)["input_ids"]) for t in ["what?", *texts])


def test_scores_do_not_depend_on_order_batch_or_company(ranker: SimCLS) -> None:
    texts = ["one", "two and a half", "three " * 30, "", "one"]
    [alone] = ranker.rank(["number?"], [texts])
    [reverse] = ranker.rank(["number?"], [texts[::-1]], batch_tokens=1)
    assert reverse.scores[::-1] == pytest.approx(alone.scores, abs=1e-5)
    ragged = ranker.rank(["number?", "x"], [texts, ["only"]])
    assert ragged[0].scores == pytest.approx(alone.scores, abs=1e-5)
    assert alone.scores[0] == alone.scores[4] and alone.ranks[0] == alone.ranks[4]
    assert ragged[1].ranks == (1,)


def test_loss_is_the_mean_over_questions_of_the_margin_loss(ranker: SimCLS) -> None:
    batch = ranker.training_batch(EXAMPLES, np.random.default_rng(0))
    output = ranker(**batch)
    s = [float(_vector(ranker, "what is a?") @ _vector(ranker, t)) for t in EXAMPLES[0].candidates]
    first = sum(max(0.0, s[j] - s[i] + (j - i) / 3) for i in range(3) for j in range(i + 1, 3))
    no, yes, reference = (
        float(_vector(ranker, "and b?") @ _vector(ranker, t)) for t in ("no", "yes", "yes indeed")
    )
    second = max(0.0, no - yes + 1 / 2)
    second += (max(0.0, no - reference) + max(0.0, yes - reference)) / 2
    assert output.loss.item() == pytest.approx((first + second) / 2, abs=1e-5)
    assert output.logits.tolist() == pytest.approx([*s, no, yes], abs=1e-5)


def test_training_lowers_the_loss_and_orders_the_candidates(tiny_model) -> None:
    torch.manual_seed(0)
    model = SimCLS.from_backbone(tiny_model("bert"), source_maxlength=16, candidate_maxlength=16)
    batch = model.training_batch(EXAMPLES, np.random.default_rng(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    first, second = model.rank([e.source for e in EXAMPLES], [e.candidates for e in EXAMPLES])
    assert model.training
    assert first.ranks == (1, 2, 3) and second.ranks == (2, 1)


def test_saved_and_loaded_ranker_gives_the_same_scores(ranker: SimCLS, tmp_path) -> None:
    ranker.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = SimCLS.from_pretrained(tmp_path)
    assert not again.training and again.config.source_maxlength == 32
    sources, candidates = ["what?", "x"], [["one", "two [SEP] three"], [""]]
    for old, new in zip(
        ranker.rank(sources, candidates), again.rank(sources, candidates), strict=True
    ):
        assert new.scores == pytest.approx(old.scores, abs=1e-6)


def test_weights_are_loaded_in_float32_unless_asked(ranker: SimCLS, tmp_path) -> None:
    ranker.save_pretrained(tmp_path)
    half = SimCLS.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert next(SimCLS.from_pretrained(tmp_path / "half").parameters()).dtype == torch.float32


def test_a_folder_of_another_kind_is_refused(tiny_model) -> None:
    with pytest.raises(ConfigError, match="not a SimCLS"):
        SimCLS.from_pretrained(tiny_model("bert"))


def test_missing_weights_are_named(ranker: SimCLS, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    ranker.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "layer.1" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=gone):
        SimCLS.from_pretrained(tmp_path)


def test_a_pickle_is_not_read(ranker: SimCLS, tmp_path) -> None:
    ranker.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(ranker.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises((ConfigError, DataError)):
        SimCLS.from_pretrained(tmp_path)


def test_lengths_beyond_the_backbone_are_refused(tiny_model) -> None:
    model = SimCLS.from_backbone(tiny_model("roberta"), candidate_maxlength=127)
    with pytest.raises(ConfigError, match="126 positions"):
        model.rank(["q"], [["a"]])


def test_damaged_weights_give_an_error_and_no_rank(ranker: SimCLS, tmp_path) -> None:
    ranker.save_pretrained(tmp_path)
    broken = SimCLS.from_pretrained(tmp_path)
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        broken.rank(["q"], [["a", "b"]])


def test_mean_pooling_is_kept_in_the_configuration(tiny_model, tmp_path) -> None:
    model = SimCLS.from_backbone(tiny_model("bert"), pooling="mean")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pooling"] == "mean"
    [mean] = SimCLS.from_pretrained(tmp_path).rank(["what?"], [["an answer"]])
    [cls] = SimCLS.from_backbone(tiny_model("bert")).rank(["what?"], [["an answer"]])
    assert mean.scores[0] != pytest.approx(cls.scores[0], abs=1e-4)


def test_the_backbone_keeps_its_pretrained_weights(tiny_model) -> None:
    from transformers import AutoModel

    folder = tiny_model("bert")
    pretrained = AutoModel.from_pretrained(folder).state_dict()
    backbone = SimCLS.from_backbone(folder).backbone.state_dict()
    assert backbone.keys() == pretrained.keys()
    assert all(torch.equal(backbone[name], pretrained[name]) for name in pretrained)
