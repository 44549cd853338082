"""Comparison of methods: typed result rows, and the function that computes them."""

from __future__ import annotations

from blender_med.stages.comparison.compare import Comparison, compare
from blender_med.stages.comparison.rows import (
    AnswerCell,
    AnswerRow,
    CandidateCell,
    ConfusionRow,
    CostRow,
    Estimate,
    MethodRow,
    SliceRow,
)

__all__ = [
    "AnswerCell",
    "AnswerRow",
    "CandidateCell",
    "Comparison",
    "ConfusionRow",
    "CostRow",
    "Estimate",
    "MethodRow",
    "SliceRow",
    "compare",
]
