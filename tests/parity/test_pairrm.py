"""Equality with llm-blender 0.0.2, whose values the fixtures hold.

The logits agree to 2e-5 on the machine that made the fixtures; 1e-4 is what other processors and
other batch shapes add in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blender_med.rankers.pairranker import PairRanker

LENGTHS = {"source_maxlength": 224, "candidate_maxlength": 96}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder() -> Path:
    root = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "pairrm"
    if not root.is_dir():
        pytest.skip("the reference values are not at hand")
    return root


@pytest.fixture(scope="module")
def cases(folder) -> list[dict]:
    found = json.loads((folder / "expected.json").read_text())
    assert len(found) == 16
    return found


@pytest.fixture(scope="module", params=["original", "hf"])
def ranker(request, folder) -> PairRanker:
    # The hf layout carries no lengths.
    lengths = LENGTHS if request.param == "hf" else {}
    return PairRanker.from_pretrained(folder / request.param, **lengths)


def rank(ranker: PairRanker, cases: list[dict], **settings):
    sources = [case["instruction"] + case["input"] for case in cases]
    return ranker.rank(sources, [case["candidates"] for case in cases], **settings)


def check(found, cases: list[dict]) -> None:
    for result, case in zip(found, cases, strict=True):
        expected = np.array(case["pairwise_logits"])
        np.testing.assert_allclose(result.pairwise_logits, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(result.scores, case["scores"], rtol=0, atol=TOLERANCE)
        assert list(result.ranks) == case["ranks"]


@pytest.mark.parametrize("batch_tokens", [1, 512, 4096, 1_000_000])
def test_all_cases_together(ranker, cases, batch_tokens):
    check(rank(ranker, cases, batch_tokens=batch_tokens), cases)


def test_each_case_alone(ranker, cases):
    for case in cases:
        check(rank(ranker, [case]), [case])


def test_shuffled_cases_and_candidates(ranker, cases):
    draws = np.random.default_rng(5)
    cases = [cases[i] for i in draws.permutation(len(cases))]
    orders = [draws.permutation(len(case["candidates"])) for case in cases]
    mixed = [
        case | {"candidates": [case["candidates"][i] for i in order]}
        for case, order in zip(cases, orders, strict=True)
    ]
    for result, case, order in zip(rank(ranker, mixed), cases, orders, strict=True):
        expected = np.array(case["pairwise_logits"])[np.ix_(order, order)]
        np.testing.assert_allclose(result.pairwise_logits, expected, rtol=0, atol=TOLERANCE)
        assert list(result.ranks) == [case["ranks"][i] for i in order]


def test_the_hf_layout_has_pairrms_own_lengths_by_default(folder):
    config = PairRanker.from_pretrained(folder / "hf").config
    assert (config.source_maxlength, config.candidate_maxlength) == (1224, 412)


def test_the_logit_of_one_order(ranker, cases):
    for case in cases:
        logits = ranker.pairwise_logits(case["instruction"] + case["input"], case["candidates"][:2])
        assert logits[0, 1] == pytest.approx(case["logit_AB"], abs=TOLERANCE)
