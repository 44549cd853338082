"""Calibration: values derived by hand, ties, properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blender_med.metrics.calibration import aurc, ece, risk_coverage

CONFIDENCE, LOSSES = [0.9, 0.2, 0.6, 0.6], [0.0, 1.0, 1.0, 0.0]
rows = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


def test_curve_by_hand():
    curve = risk_coverage(CONFIDENCE, LOSSES)
    assert curve.threshold.tolist() == [0.9, 0.6, 0.2]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 3, 1 / 2])


def test_area_by_hand():
    # Risks at 1/4 .. 4/4; of the tied two one half is wrong: 0, 0.5/2, 1/3, 2/4.
    assert aurc(CONFIDENCE, LOSSES) == pytest.approx((0 + 1 / 4 + 1 / 3 + 1 / 2) / 4)
    # Geifman et al. 2019: the best order puts the errors last, 0, 0, 1/3, 2/4.
    assert aurc([4, 1, 2, 3], LOSSES) == pytest.approx((1 / 3 + 1 / 2) / 4)


@given(rows, st.randoms())
def test_equal_confidence_gives_the_mean_and_order_does_not_matter(pairs, draws):
    confidence, losses = map(list, zip(*pairs, strict=True))
    assert aurc(np.zeros(len(losses)), losses) == pytest.approx(np.mean(losses))
    shuffled = list(zip(*draws.sample(pairs, len(pairs)), strict=True))
    assert aurc(*shuffled) == pytest.approx(aurc(confidence, losses))
    assert risk_coverage(*shuffled).risk == pytest.approx(risk_coverage(confidence, losses).risk)
    assert risk_coverage(confidence, losses).risk[-1] == pytest.approx(np.mean(losses))


def test_calibration_error_by_hand():
    # Two bins. (0, 0.5]: confidences 0.2, 0.5, one right: |0.5 - 0.35|; (0.5, 1]: 0.7, 0.9, one
    # right: |0.5 - 0.8|.
    assert ece([0.2, 0.5, 0.7, 0.9], [1, 0, 1, 0], bins=2) == pytest.approx((0.15 + 0.3) / 2)
    assert ece([0.0, 1.0], [0, 1]) == 0.0
    assert ece([1.0, 1.0], [0, 0]) == 1.0


@given(rows)
def test_one_bin_is_the_difference_of_the_means(pairs):
    confidence, correct = map(list, zip(*pairs, strict=True))
    expected = abs(np.mean(confidence) - np.mean(correct))
    assert ece(confidence, correct, bins=1) == pytest.approx(expected, abs=1e-12)
    assert 0 <= ece(confidence, correct) <= 1 + 1e-12


@pytest.mark.parametrize("function", [risk_coverage, aurc, ece])
@pytest.mark.parametrize(
    ("confidence", "outcomes", "message"),
    [
        ([0.5], [1, 0], "confidences for"),
        ([], [], "no question"),
        ([math.nan], [1], "NaN"),
        ([0.5], [math.nan], "NaN"),
    ],
)
def test_wrong_input_is_refused(function, confidence, outcomes, message):
    with pytest.raises(ValueError, match=message):
        function(confidence, outcomes)


@pytest.mark.parametrize(("confidence", "bins"), [([1.1], 15), ([-0.1], 15), ([0.5], 0)])
def test_a_calibration_error_needs_probabilities(confidence, bins):
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        ece(confidence, [1], bins=bins)
