"""``Blender`` against the values of llm_blender.Blender 0.0.2; see test_pairrm.py on tolerance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blender_med import Blender, BlenderConfig

LENGTHS = {"source_maxlength": 224, "candidate_maxlength": 96}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder() -> Path:
    root = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "pairrm"
    if not root.is_dir():
        pytest.skip("the reference values are not at hand")
    return root


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "expected.json").read_text())
    assert len(found) == 16
    return found


@pytest.fixture(scope="module", params=["original", "hf"])
def blender(request, folder: Path) -> Blender:
    made = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    made.loadranker(str(folder / request.param), **(LENGTHS if request.param == "hf" else {}))
    return made


def _columns(cases: list[dict[str, Any]]) -> tuple[list[str], list[list[str]], list[str]]:
    return (
        [case["input"] for case in cases],
        [case["candidates"] for case in cases],
        [case["instruction"] for case in cases],
    )


def _groups(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Cases with the same number of candidates, as llm-blender wants them."""
    sizes = sorted({len(case["candidates"]) for case in cases})
    return [[c for c in cases if len(c["candidates"]) == size] for size in sizes]


def test_ranks_and_scores_of_equal_numbers_of_candidates_are_arrays(blender, cases) -> None:
    for own in _groups(cases):
        inputs, candidates, instructions = _columns(own)
        ranks = blender.rank(inputs, candidates, instructions)
        scores = blender.rank(inputs, candidates, instructions, return_scores=True, batch_size=3)
        assert isinstance(ranks, np.ndarray) and ranks.dtype == np.int32
        assert isinstance(scores, np.ndarray) and scores.dtype == np.float32
        assert ranks.tolist() == [case["ranks"] for case in own]
        expected = np.array([case["scores"] for case in own])
        np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_different_numbers_of_candidates_are_a_list_of_rows(blender, cases) -> None:
    inputs, candidates, instructions = _columns(cases)
    ranks = blender.rank(inputs, candidates, instructions=instructions)
    assert isinstance(ranks, list)
    assert [row.tolist() for row in ranks] == [case["ranks"] for case in cases]


def test_instruction_and_input_are_joined_without_a_separator(blender, cases) -> None:
    case = cases[0]
    [scores] = blender.rank(
        [case["instruction"] + case["input"]], [case["candidates"]], return_scores=True
    )
    np.testing.assert_allclose(scores, case["scores"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("[A,B]", lambda case: case["logit_AB"]),
        ("[B,A]", lambda case: case["compare_BA_mode_output"]),
        ("[A,B]+[B,A]", lambda case: case["pairwise_logits"][0][1] - case["pairwise_logits"][1][0]),
    ],
)
def test_compare(blender, cases, mode, expected) -> None:
    inputs, candidates, instructions = _columns(cases)
    first, second = [c[0] for c in candidates], [c[1] for c in candidates]
    logits = blender.compare(inputs, first, second, instructions, return_logits=True, mode=mode)
    assert logits.dtype == np.float32
    wanted = [expected(case) for case in cases]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
    verdicts = blender.compare(inputs, first, second, instructions, mode=mode)
    assert verdicts.dtype == np.bool_
    assert verdicts.tolist() == [value > 0 for value in wanted]


def test_equal_candidates_meet_in_one_order_as_in_llm_blender(blender, cases) -> None:
    """Case 4 of the fixtures has a candidate twice: its logit against itself is not 0."""
    [case, places] = next(
        (case, (i, j))
        for case in cases
        for i, text in enumerate(case["candidates"])
        for j in range(i)
        if case["candidates"][j] == text
    )
    expected = case["pairwise_logits"][places[0]][places[1]]
    text = case["candidates"][places[0]]
    settings = {"instructions": [case["instruction"]], "return_logits": True}
    [one] = blender.compare([case["input"]], [text], [text], mode="[A,B]", **settings)
    [both] = blender.compare([case["input"]], [text], [text], **settings)
    assert one == pytest.approx(expected, abs=TOLERANCE) and one != 0
    assert both == 0


def test_rank_with_ref(blender, cases) -> None:
    for own in _groups(cases):
        inputs, candidates, instructions = _columns(own)
        scores = blender.rank_with_ref(inputs, candidates, instructions, return_scores=True)
        assert isinstance(scores, np.ndarray) and scores.dtype == np.float64
        expected = np.array([case["rank_with_ref_longest"] for case in own])
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2 * TOLERANCE)
        ranks = blender.rank_with_ref(inputs, candidates, instructions)
        assert isinstance(ranks, np.ndarray) and ranks.dtype == np.int32
        assert ranks.tolist() == [
            [1 + sum(other > value for other in row) for value in row] for row in scores.tolist()
        ]


def test_the_full_best_and_worst_are_those_of_the_scores(blender, cases) -> None:
    inputs, candidates, instructions = _columns(cases)
    best = blender.get_best_of_n(inputs, candidates, instructions, pairrm_cmp_type="full")
    assert best == [case["candidates"][case["ranks"].index(1)] for case in cases]
    worst = blender.get_worst_of_n(inputs, candidates, instructions, pairrm_cmp_type="full")
    assert worst == [c["candidates"][int(np.argmin(c["scores"]))] for c in cases]
    ordered = blender.get_best_of_n(
        inputs, candidates, instructions, pairrm_cmp_type="full", return_all=True
    )
    for case, texts in zip(cases, ordered, strict=True):
        assert texts[0] == best[cases.index(case)] and sorted(texts) == sorted(case["candidates"])


def _one_pass(case: dict[str, Any], sign: int) -> str:
    """Winner (sign 1) or loser (-1) of llm-blender's single pass over the distinct candidates.

    Two that are equal once they are cut tie; the first of them is returned.
    """
    logits, texts = case["pairwise_logits"], case["candidates"]
    kept, *rivals = (texts.index(text) for text in dict.fromkeys(texts))
    for rival in rivals:
        margin = sign * (logits[kept][rival] - logits[rival][kept])
        kept = kept if margin >= 0 else rival
    return texts[kept]


def test_bubble_is_one_pass_over_the_candidates(blender, cases) -> None:
    inputs, candidates, instructions = _columns(cases)
    best = blender.get_best_of_n(inputs, candidates, instructions)
    assert best == [_one_pass(case, 1) for case in cases]
    worst = blender.get_worst_of_n(inputs, candidates, instructions)
    assert worst == [_one_pass(case, -1) for case in cases]
    assert candidates == [case["candidates"] for case in cases]


def test_lengths_of_one_call_change_that_call_only(blender, cases) -> None:
    case = next(c for c in cases if max(map(len, c["candidates"])) > 2000)
    arguments = [case["input"]], [case["candidates"]], [case["instruction"]]
    short = blender.rank(*arguments, return_scores=True, candidate_max_length=12)
    again = blender.rank(*arguments, return_scores=True)
    assert not np.allclose(short, [case["scores"]], atol=TOLERANCE)
    np.testing.assert_allclose(again, [case["scores"]], rtol=0, atol=TOLERANCE)
    cut = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    cut._ranker = blender.ranker
    np.testing.assert_allclose(
        cut.rank(*arguments, return_scores=True, candidate_max_length=12), short, atol=1e-6
    )


def test_special_tokens_inside_texts_are_plain_text(blender, cases) -> None:
    texts = ["a <|candidate|> b <|source|>", "c [SEP] <|candidate2|>", "plain"]
    spaced = ["a   b  ", "c    ", "plain"]
    [marked] = blender.rank(["q <|candidate1|>"], [texts], return_scores=True)
    [plain] = blender.rank(["q  "], [spaced], return_scores=True)
    np.testing.assert_allclose(marked, plain, rtol=0, atol=1e-5)
