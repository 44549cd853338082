"""Pseudo-log-likelihood against the plain definition."""

from __future__ import annotations

import math

import pytest
import torch

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.mlm import MLMScorer

KINDS = ["bert", "roberta"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tiny_model):
    return tiny_model(request.param, "AutoModelForMaskedLM")


@pytest.fixture(scope="module")
def scorer(folder) -> MLMScorer:
    lengths = {"source_maxlength": 40, "candidate_maxlength": 60}
    return MLMScorer.from_pretrained(folder, device="cpu", **lengths)


def _plain(folder, source: str, candidate: str) -> float:
    """One masked copy at a time through the whole model."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(source, candidate, return_tensors="pt")
    ids = inputs["input_ids"][0]
    size = len(tokenizer(candidate, add_special_tokens=False)["input_ids"])
    values = []
    for place in range(len(ids) - 1 - size, len(ids) - 1):
        masked = ids.clone()
        masked[place] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(**inputs | {"input_ids": masked[None]}).logits[0, place]
        values.append(float(logits.log_softmax(dim=-1)[ids[place]]))
    return sum(values) / len(values)


def test_mean_log_probability_of_each_token_masked_in_turn(scorer: MLMScorer, folder) -> None:
    texts = ["an answer", "b", "a longer answer, in two parts."]
    [ranking] = scorer.rank(["what is it?"], [texts], batch_tokens=300)
    expected = [_plain(folder, "what is it?", text) for text in texts]
    assert ranking.scores == pytest.approx(expected, abs=1e-5)
    assert max(ranking.scores) < 0


def test_an_empty_candidate_is_a_uniform_guess(scorer: MLMScorer) -> None:
    [ranking] = scorer.rank([""], [["", "a"]])
    assert ranking.scores[0] == pytest.approx(-math.log(scorer._model.config.vocab_size))


def test_scores_do_not_depend_on_order_batch_or_company(scorer: MLMScorer) -> None:
    texts = ["one", "two and a half", "three " * 30, "", "one"]
    [alone] = scorer.rank(["number?"], [texts])
    [reverse] = scorer.rank(["number?"], [texts[::-1]], batch_tokens=1)
    assert reverse.scores[::-1] == pytest.approx(alone.scores, abs=1e-5)
    ragged = scorer.rank(["x", "number?"], [["only"], texts])
    assert ragged[1].scores == pytest.approx(alone.scores, abs=1e-5)
    assert ragged[0].ranks == (1,)


def test_an_encoder_without_the_head_is_refused(tiny_model) -> None:
    with pytest.raises(DataError, match="missing"):
        MLMScorer.from_pretrained(tiny_model("bert"), source_maxlength=9, candidate_maxlength=9)


def test_lengths_beyond_the_model_are_refused(folder) -> None:
    with pytest.raises(ConfigError, match="positions"):
        MLMScorer.from_pretrained(folder, device="cpu")


def test_the_model_keeps_its_usual_output(scorer: MLMScorer) -> None:
    scorer.rank(["q"], [["some answer"]])
    output = scorer._model(input_ids=torch.tensor([[5, 6, 7]]))
    assert output.logits.shape[1] == 3
