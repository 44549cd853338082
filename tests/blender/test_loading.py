"""``Blender.loadranker`` with every kind of ranker, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blender_med import Blender, BlenderConfig
from blender_med.errors import ConfigError
from blender_med.rankers.simcls import SimCLS
from blender_med.rankers.summareranker import SummaReranker

LENGTHS = {"source_maxlength": 16, "candidate_maxlength": 16}
SOURCES, CANDIDATES = ["what causes fever ?"], [["the liver", "heart pain", "cough of the dose"]]


def _loaded(folder: Path, **settings) -> Blender:
    blender = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    blender.loadranker(folder, **settings)
    return blender


@pytest.mark.parametrize("kind", [SimCLS, SummaReranker])
def test_rankers_of_this_package(tiny_encoder: Path, tmp_path: Path, kind) -> None:
    torch.manual_seed(0)
    ranker = kind.from_backbone(tiny_encoder, **LENGTHS)
    ranker.save_pretrained(tmp_path)
    blender = _loaded(tmp_path)
    assert isinstance(blender.ranker, kind)
    [scores] = blender.rank(SOURCES, CANDIDATES, return_scores=True)
    assert scores.tolist() == pytest.approx(ranker.rank(SOURCES, CANDIDATES)[0].scores, abs=1e-6)
    assert blender.get_best_of_n(SOURCES, CANDIDATES) == [CANDIDATES[0][int(scores.argmax())]]


def test_a_reward_model(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    blender = _loaded(tmp_path, **LENGTHS)
    [scores] = blender.rank(SOURCES, CANDIDATES, return_scores=True)
    for text, score in zip(CANDIDATES[0], scores, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(SOURCES[0], text, return_tensors="pt")).logits[0, 0]
        assert score == pytest.approx(float(expected), abs=1e-5)
    [cut] = blender.rank(SOURCES, CANDIDATES, return_scores=True, candidate_max_length=1)
    assert cut[2] != pytest.approx(scores[2], abs=1e-6)


def test_lengths_share_the_weights_and_leave_the_ranker_as_it_is(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    from blender_med.rankers.checkpoint import with_lengths

    ranker = SimCLS.from_backbone(tiny_encoder, **LENGTHS).eval()
    before = ranker.rank(SOURCES, CANDIDATES)[0].scores
    other = with_lengths(ranker, source_maxlength=3)
    assert other.config.source_maxlength == 3 and ranker.config.source_maxlength == 16
    assert next(other.parameters()) is next(ranker.parameters())
    assert other.rank(SOURCES, CANDIDATES)[0].scores != before
    assert ranker.rank(SOURCES, CANDIDATES)[0].scores == before
    assert with_lengths(ranker) is ranker


def test_a_setting_of_another_kind_of_ranker_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    SimCLS.from_backbone(tiny_encoder, **LENGTHS).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="backbone"):
        _loaded(tmp_path, model_name="microsoft/deberta-v3-large")
