"""Arguments and shapes of ``Blender.fuse``; tests/parity/test_genfuser.py tests its texts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blender_med import Blender, BlenderConfig
from blender_med.blender.fusing_arguments import (
    best_candidates,
    decoding_of,
    for_one_call,
    quantization,
)
from blender_med.errors import ConfigError, DataError
from blender_med.fusers.base import Fusion
from blender_med.fusers.config import Decoding
from blender_med.rankers.base import RankedCandidates


class LengthRanker:
    """The longest candidate is the best."""

    config = SimpleNamespace(source_maxlength=10, candidate_maxlength=20)

    def rank(self, sources, candidates, *, advance=None, **settings):
        scores = [tuple(float(len(text)) for text in group) for group in candidates]
        return [
            RankedCandidates(own, tuple(1 + sum(s > t for s in own) for t in own)) for own in scores
        ]


class Recorder:
    """A fuser that joins what it is given and keeps how it was asked."""

    def __init__(self) -> None:
        self.formatter = SimpleNamespace(candidate_maxlength=77)
        self.asked: dict[str, Any] = {}

    def fusions(self, instructions, inputs, candidates, **settings):
        self.asked = {"instructions": instructions, **settings}
        return [Fusion("+".join(group), "fused", len(group)) for group in candidates]


@pytest.fixture
def blender(monkeypatch) -> Blender:
    made = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    made._ranker, made._fuser = LengthRanker(), Recorder()
    monkeypatch.setattr(
        "blender_med.blender.fusing_arguments.for_one_call", lambda fuser, *limits: fuser
    )
    return made


def test_all_candidates_are_fused_with_the_peers_defaults(blender):
    assert blender.fuse(["q", "r"], [["a", "b", "c", "d"], ["e"]]) == ["a+b+c+d", "e"]
    asked = blender.fuser.asked
    assert (asked["instructions"], asked["top_k"]) == (["", ""], 4)
    assert asked["decoding"] == Decoding(num_beams=4, max_new_tokens=77)


def test_ranks_and_fuses_the_best(blender):
    candidates = [["a", "bbb", "cc", "dddd"], ["e", "ff"]]
    texts, ranks = blender.rank_and_fuse(["q", "r"], candidates, ["i", "j"], top_k=2)
    assert texts == ["dddd+bbb", "ff+e"]
    assert [list(row) for row in ranks] == [[4, 2, 3, 1], [2, 1]]
    texts, scores = blender.rank_and_fuse(["q"], candidates[:1], return_scores=True, num_beams=2)
    assert texts == ["dddd+bbb+cc"]
    assert np.array_equal(scores, [[1, 3, 2, 4]])
    assert blender.fuser.asked["decoding"].num_beams == 2


def test_ties_keep_their_order():
    assert best_candidates([["a", "b", "c"]], np.array([[1, 1, 1]]), 2, is_score=False) == [
        ["a", "b"]
    ]


def test_arguments_of_generate():
    sampled = decoding_of({"do_sample": True, "top_k": 5, "top_p": 0.9, "seed": 3}, 10)
    assert sampled == Decoding(
        temperature=1.0, sample_top_k=5, top_p=0.9, seed=3, max_new_tokens=10
    )
    assert decoding_of({"do_sample": True, "temperature": 0.5}, 10).sample_top_k == 50
    assert decoding_of({"num_beams": 2, "do_sample": False}, 10).num_beams == 2
    assert decoding_of({"num_return_sequences": 1}, 10) == decoding_of({}, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.5}, "key 'temperature'.*do_sample=True"),
        ({"num_beam": 2}, "did you mean 'num_beams'"),
        ({"num_return_sequences": 3}, "key 'num_return_sequences'.*one answer"),
        ({"batch_size": 0}, "key 'batch_size'"),
    ],
)
def test_wrong_arguments_are_named(blender, arguments, message):
    with pytest.raises(ConfigError, match=message):
        blender.fuse(["q"], [["a"]], **arguments)


def test_wrong_texts_are_named(blender):
    with pytest.raises(DataError, match="inputs is one text"):
        blender.fuse("question", [["a"]])


@pytest.mark.parametrize("length", [0, -5])
def test_a_candidate_needs_room(length):
    with pytest.raises(ConfigError, match="key 'candidate_max_length'"):
        for_one_call(Recorder(), length, 4)


def test_no_fuser_no_answer():
    with pytest.raises(ConfigError, match="call loadfuser"):
        Blender(BlenderConfig(use_tqdm=False)).fuse(["q"], [["a"]])


def test_one_quantisation_at_a_time():
    assert quantization(False, False) == {}
    with pytest.raises(ConfigError, match="4 and 8 bits"):
        quantization(True, True)


@pytest.mark.parametrize("top_k", [0, -1])
def test_nothing_to_fuse_is_refused(blender, top_k):
    with pytest.raises(ConfigError, match=r"no candidate to fuse.*give at least 1"):
        blender.rank_and_fuse(["q"], [["a", "b"]], top_k=top_k)
