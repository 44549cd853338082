"""Comparison of methods: typed result rows, and the function that computes them."""

from __future__ import annotations

from blender_med.stages.comparison.certainty import with_certainty
from blender_med.stages.comparison.compare import Comparison, compare
from blender_med.stages.comparison.estimates import Resampling
from blender_med.stages.comparison.fusions import fusion_rows
from blender_med.stages.comparison.rankings import ranking_rows
from blender_med.stages.comparison.rows import (
    AnswerCell,
    AnswerRow,
    CandidateCell,
    Changes,
    ConfusionRow,
    ContaminationRow,
    CostRow,
    Estimate,
    FusionRow,
    MethodRow,
    RankingRow,
    SliceRow,
)

__all__ = [
    "AnswerCell",
    "AnswerRow",
    "CandidateCell",
    "Changes",
    "Comparison",
    "ConfusionRow",
    "ContaminationRow",
    "CostRow",
    "Estimate",
    "FusionRow",
    "MethodRow",
    "RankingRow",
    "Resampling",
    "SliceRow",
    "compare",
    "fusion_rows",
    "ranking_rows",
    "with_certainty",
]
