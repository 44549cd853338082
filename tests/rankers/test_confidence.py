"""Confidence: values by hand, properties, calibration on simulated rankers, wrong input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blender_med.errors import ConfigError, DataError
from blender_med.metrics.calibration import aurc, ece
from blender_med.rankers.confidence import Confidence

scores = st.lists(st.floats(-50, 50), min_size=1, max_size=8)


def simulated(n: int, seed: int, noise: float = 1.0) -> tuple[list[list[float]], list[bool]]:
    """Questions of 2 to 8 candidates whose scores are their true quality with noise."""
    draw = np.random.default_rng(seed)
    groups, outcomes = [], []
    for _ in range(n):
        quality = draw.normal(size=draw.integers(2, 9))
        seen = 7 * (quality + draw.normal(0, noise, len(quality))) - 3
        groups.append(seen.tolist())
        outcomes.append(bool(quality[seen.argmax()] == quality.max()))
    return groups, outcomes


@pytest.fixture(scope="module")
def fitted() -> Confidence:
    return Confidence.fit(*simulated(200, seed=0))


def test_value_by_hand() -> None:
    ends = {"low": (-9, 0, -9, 0), "high": (9, 1.5, 9, 1)}
    confidence = Confidence(unit=2.0, weights=(0.1, 0.5, 0.25, -1.0), bias=-0.2, **ends)
    # In units: 3, 2, 1. The lead is 1, the log-odds 3 - log(e^2 + e^1).
    odds = 3 - math.log(math.exp(2) + math.exp(1))
    expected = 1 / (1 + math.exp(-(0.3 + 0.5 + 0.25 * odds - 0.2)))
    assert confidence([4.0, 6.0, 2.0]) == pytest.approx(expected)
    # Without rivals the lead and the odds are the greatest seen.
    alone = 1 / (1 + math.exp(-(0.3 + 0.5 * 1.5 + 0.25 * 9 - 1.0 - 0.2)))
    assert confidence([6.0]) == pytest.approx(alone)


def test_scores_that_say_nothing_give_the_smoothed_share() -> None:
    # Platt's targets: 31/32 of 30 best, 1/12 of 10 others.
    confidence = Confidence.fit([[1.0, 1.0]] * 40, [True] * 30 + [False] * 10)
    expected = (30 * 31 / 32 + 10 / 12) / 40
    assert confidence([1.0, 1.0]) == pytest.approx(expected, abs=1e-6)
    assert confidence([5.0, 1.0, 0.0]) == pytest.approx(expected, abs=1e-6)


@given(scores, st.floats(0, 100))
def test_it_is_a_probability_that_never_falls_when_the_first_score_rises(fitted, own, rise):
    before = fitted(own)
    assert 0 <= before <= 1
    best = own.index(max(own))
    raised = [*own[:best], own[best] + rise, *own[best + 1 :]]
    assert fitted(raised) >= before - 1e-12
    assert fitted(own[::-1]) == pytest.approx(before)


def test_a_greater_lead_is_surer(fitted) -> None:
    values = [fitted([lead, 0.0, -1.0]) for lead in (0.0, 2.0, 6.0, 15.0)]
    assert values == sorted(values) and values[-1] > values[0] + 0.3


def test_a_ranker_that_is_no_good_does_not_get_surer_by_its_lead() -> None:
    groups, outcomes = simulated(200, seed=0)
    confidence = Confidence.fit(groups, [not right for right in outcomes])
    leads = [confidence([lead, 0.0]) for lead in (0.0, 5.0, 20.0)]
    assert max(leads) - min(leads) < 0.05


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_it_is_calibrated_on_questions_that_it_has_not_seen(noise) -> None:
    confidence = Confidence.fit(*simulated(400, seed=1, noise=noise))
    groups, outcomes = simulated(4000, seed=2, noise=noise)
    sure = [confidence(own) for own in groups]
    # Draws from the probabilities themselves show about 0.02; 400 questions to learn from added up
    # to 0.05 over 8 seeds.
    assert ece(sure, outcomes) < 0.08
    losses = [1 - right for right in outcomes]
    assert aurc(sure, losses) < 0.85 * np.mean(losses)


def test_few_questions_do_not_make_it_extreme() -> None:
    groups = [[float(i), 0.0] for i in range(30)]
    # The lead separates the outcomes perfectly: plain regression would say 0 and 1.
    confidence = Confidence.fit(groups, [i >= 10 for i in range(30)])
    assert 0.02 < confidence([0.0, 0.0]) < 0.4
    assert 0.9 < confidence([29.0, 0.0]) < 0.999


def test_beyond_what_was_seen_it_stays_what_it_was(fitted) -> None:
    assert fitted([1e9, 0.0]) == pytest.approx(fitted([1e12, 0.0]))


def test_a_candidate_without_rivals_has_a_rate_of_its_own() -> None:
    groups, outcomes = simulated(100, seed=3)
    alone = [[0.0]] * 100
    sure = Confidence.fit(groups + alone, outcomes + [True] * 100)
    doubtful = Confidence.fit(groups + alone, outcomes + [i % 4 == 0 for i in range(100)])
    assert sure([0.0]) > 0.95
    assert doubtful([0.0]) == pytest.approx(0.25, abs=0.08)


def test_json_gives_it_back(fitted) -> None:
    again = Confidence.from_json(fitted.to_json())
    assert again == fitted
    assert again([3.0, 1.0]) == fitted([3.0, 1.0])


def test_wrong_json_is_named() -> None:
    with pytest.raises(DataError, match="not JSON"):
        Confidence.from_json("{")
    with pytest.raises(ConfigError, match="'unit'"):
        Confidence.from_json('{"low": [0, 0, 0, 0]}')


@pytest.mark.parametrize(
    ("groups", "outcomes", "message"),
    [
        ([], [], "0 labelled questions"),
        ([[1.0, 0.0]] * 29, [True] * 15 + [False] * 14, "29 labelled questions.*it takes 30"),
        ([[1.0, 0.0]] * 40, [True] * 36 + [False] * 4, "the best in 36.*5 of either"),
        ([[1.0, 0.0]] * 40, [True] * 39, "40 questions but 39 outcomes"),
        ([[]] * 40, [True, False] * 20, "no scores"),
        ([[math.nan, 1.0]] * 40, [True, False] * 20, "no scores"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(groups, outcomes, message) -> None:
    with pytest.raises(DataError, match=message):
        Confidence.fit(groups, outcomes)


@pytest.mark.parametrize("own", [[], [math.inf], [1.0, math.nan]])
def test_scores_that_are_none_are_refused(fitted, own) -> None:
    with pytest.raises(DataError, match="no scores"):
        fitted(own)
