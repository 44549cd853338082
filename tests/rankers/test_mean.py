"""The mean of rankers: scales do not matter, weights do, costs add up."""

from __future__ import annotations

import numpy as np
import pytest

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.base import RankedCandidates
from blender_med.rankers.mean import MeanRanker, standard_scores


class Fixed:
    """Gives the scores it was told, by question."""

    def __init__(self, **scores: tuple[float, ...]) -> None:
        self._scores = scores
        self.asked: dict[str, object] = {}

    def rank(self, sources, candidates, **settings):
        self.asked = settings
        return [RankedCandidates(self._scores[s], (), None, 2, 10) for s in sources]


TEXTS = ["a", "b", "c"]


def test_scores_are_standardised_within_each_question() -> None:
    large, small = Fixed(q=(1000.0, 0.0, 500.0)), Fixed(q=(0.1, 0.2, 0.3))
    [both] = MeanRanker([(large, {"dtype": "bfloat16"}), (small, {})]).rank(["q"], [TEXTS])
    spread = np.sqrt(1.5)
    assert both.scores == pytest.approx([0.0, -spread / 2, spread / 2])
    assert both.ranks == (2, 3, 1)
    assert (both.comparisons, both.tokens, both.pairwise_logits) == (4, 20, None)
    assert large.asked == {"dtype": "bfloat16"} and small.asked == {}


def test_weights_are_relative() -> None:
    first, second = Fixed(q=(1.0, 0.0, 0.0)), Fixed(q=(0.0, 1.0, 0.0))
    for weights, best in (((3, 1), 0), ((1, 3), 1)):
        [own] = MeanRanker([(first, {}), (second, {})], weights).rank(["q"], [TEXTS])
        assert own.ranks[best] == 1
    [equal] = MeanRanker([(first, {}), (second, {})], (5, 5)).rank(["q"], [TEXTS])
    assert equal.ranks == (1, 1, 3)


def test_a_ranker_without_a_preference_says_nothing() -> None:
    assert standard_scores([4.0, 4.0]).tolist() == [0.0, 0.0]
    assert standard_scores([7.0]).tolist() == [0.0]
    assert standard_scores([0.1 + 0.2, 0.3]).tolist() == [0.0, 0.0]
    flat, other = Fixed(q=(2.0, 2.0, 2.0)), Fixed(q=(1.0, 3.0, 2.0))
    [own] = MeanRanker([(flat, {}), (other, {})]).rank(["q"], [TEXTS])
    assert own.ranks == (3, 1, 2)


def test_questions_may_have_different_numbers_of_candidates() -> None:
    one = Fixed(q=(1.0, 2.0, 3.0), r=(5.0,))
    done: list[int] = []
    mean = MeanRanker([(one, {}), (one, {})])
    rankings = mean.rank(["q", "r"], [TEXTS, ["d"]], advance=done.append)
    assert [own.ranks for own in rankings] == [(3, 2, 1), (1,)]
    assert done == [2]
    assert mean.rank([], []) == []


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, 2.0, 3.0)])
def test_wrong_weights_are_refused(weights) -> None:
    with pytest.raises(ConfigError, match="one positive weight for each"):
        MeanRanker([(Fixed(), {}), (Fixed(), {})], weights)


def test_no_ranker_and_no_candidate_are_refused() -> None:
    with pytest.raises(ConfigError, match="give a ranker or more"):
        MeanRanker([])
    with pytest.raises(DataError, match="no candidate to rank"):
        MeanRanker([(Fixed(), {})]).rank(["q"], [[]])
