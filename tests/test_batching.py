"""Batches by token budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blender_med.batching import token_budget_batches


def test_longest_first_within_the_budget():
    # 10 tokens: one row of 7; then rows of 5 and 4 (2 x 5); then three of 3, 3, 2 (3 x 3).
    assert token_budget_batches([3, 7, 5, 2, 4, 3], 10) == [[1], [2, 4], [0, 5, 3]]


def test_rows_are_capped_and_a_long_row_stands_alone():
    assert token_budget_batches([1, 1, 1], 100, max_rows=2) == [[0, 1], [2]]
    assert token_budget_batches([50, 1], 10) == [[0], [1]]
    assert token_budget_batches([], 10) == []


@given(st.lists(st.integers(0, 60)), st.integers(1, 100), st.integers(1, 5))
def test_every_row_once_and_no_batch_above_the_budget(lengths, tokens, rows):
    batches = token_budget_batches(lengths, tokens, rows)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


@pytest.mark.parametrize("settings", [{"batch_tokens": 0}, {"batch_tokens": 1, "max_rows": 0}])
def test_an_empty_batch_is_refused(settings):
    with pytest.raises(ValueError, match="at least one"):
        token_budget_batches([1], **settings)
