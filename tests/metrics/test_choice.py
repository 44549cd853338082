"""Accuracy, macro and per-label scores, confusion table."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from blender_med.metrics.choice import (
    UNPARSED,
    are_word_labels,
    choice_report,
    confusion_columns,
    correct,
    macro_scores,
    option_letter,
)

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=40)


def test_correct_counts_unparsed_as_wrong_and_unknown_as_missing():
    values = correct([0, 1, None, 2], [0, 0, 0, None])
    assert values[:3] == [1.0, 0.0, 0.0]
    assert math.isnan(values[3])


def test_report_of_a_worked_example():
    # gold yes yes no maybe; predicted yes no no unparsed
    report = choice_report(np.array([0, 0, 1, 2]), np.array([0, 1, 1, UNPARSED]), 3)
    assert report.accuracy == 0.5
    assert report.unparsed == 0.25
    assert (report.labels[0].precision, report.labels[0].recall) == (1.0, 0.5)
    assert (report.labels[1].precision, report.labels[1].recall) == (0.5, 1.0)
    assert report.labels[2].f1 == 0.0
    assert report.f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert report.precision == pytest.approx((1 + 0.5 + 0) / 3)
    assert report.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


@given(ROWS)
@settings(deadline=None)
def test_report_agrees_with_scikit_learn_and_with_the_vectorised_scores(rows):
    gold, predicted = np.array(rows).T
    report = choice_report(gold, predicted, 4)
    parsed = sorted({*gold.tolist(), *predicted.tolist()} - {UNPARSED})
    p, r, f, _ = precision_recall_fscore_support(
        gold, predicted, labels=parsed, average="macro", zero_division=0
    )
    assert (report.precision, report.recall, report.f1) == pytest.approx((p, r, f))
    assert report.accuracy == pytest.approx(accuracy_score(gold, predicted))
    counts = confusion_columns(gold, predicted, 4).sum(axis=0).reshape(4, 5)
    assert counts.tolist() == report.confusion.tolist()
    assert macro_scores(counts) == pytest.approx(np.array([p, r, f]))


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_order_of_questions_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (choice_report(*np.array(r).T, 4) for r in (rows, shuffled))
    assert first.f1 == pytest.approx(second.f1)


def test_unknown_gold_is_left_out_of_the_confusion_columns():
    assert confusion_columns(np.array([-1, 0]), np.array([0, 0]), 2).sum(axis=1).tolist() == [0, 1]


def test_macro_scores_of_an_empty_table_are_zero():
    assert macro_scores(np.zeros((2, 3, 4))).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("gold", [[], [2], [-1]])
def test_report_refuses_what_it_cannot_score(gold):
    with pytest.raises(ValueError, match="gold labels"):
        choice_report(np.array(gold, dtype=int), np.zeros(len(gold), dtype=int), 2)


def test_labels():
    assert [option_letter(i) for i in (0, 3, 25, 26)] == ["A", "D", "Z", "27"]
    assert are_word_labels(["Yes", " no ", "maybe"])
    assert not are_word_labels(["yes", "yes"])
    assert not are_word_labels(["yes", "aspirin"])
    assert not are_word_labels([])
