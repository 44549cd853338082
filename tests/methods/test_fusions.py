"""Counts of improved, equal and worse answers."""

from __future__ import annotations

import numpy as np

from blender_med.stages.comparison import Changes
from blender_med.stages.comparison.fusions import changes


def test_changes_count_what_both_answered() -> None:
    values = np.array([0.5, 0.5, 0.2, np.nan, 0.3])
    rivals = np.array([0.4, 0.5 + 1e-12, 0.3, 0.1, np.nan])
    assert changes(values, rivals) == Changes(improved=1, stayed=1, worsened=1)


def test_no_answer_gives_no_change() -> None:
    assert changes(np.array([]), np.array([])) == Changes(0, 0, 0)
