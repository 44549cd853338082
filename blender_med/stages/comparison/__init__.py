"""Comparison of methods: typed result rows, and the function that computes them."""

from __future__ import annotations

from blender_med.stages.comparison.certainty import with_certainty
from blender_med.stages.comparison.compare import Comparison, compare
from blender_med.stages.comparison.diagnosis import CoverageRow, Diagnosis, QualityRow, diagnose
from blender_med.stages.comparison.estimates import Resampling
from blender_med.stages.comparison.experts import DuelRow, UsageRow
from blender_med.stages.comparison.fusions import fusion_rows
from blender_med.stages.comparison.gating import GatingRow, gating_rows
from blender_med.stages.comparison.headroom import HeadroomRow
from blender_med.stages.comparison.paired import DifferenceRow, difference_rows
from blender_med.stages.comparison.rankings import ranking_rows
from blender_med.stages.comparison.rivals import RivalRow, rival_rows
from blender_med.stages.comparison.rows import (
    AnswerCell,
    AnswerRow,
    Block,
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
    "Block",
    "CandidateCell",
    "Changes",
    "Comparison",
    "ConfusionRow",
    "ContaminationRow",
    "CostRow",
    "CoverageRow",
    "Diagnosis",
    "DifferenceRow",
    "DuelRow",
    "Estimate",
    "FusionRow",
    "GatingRow",
    "HeadroomRow",
    "MethodRow",
    "QualityRow",
    "RankingRow",
    "Resampling",
    "RivalRow",
    "SliceRow",
    "UsageRow",
    "compare",
    "diagnose",
    "difference_rows",
    "fusion_rows",
    "gating_rows",
    "ranking_rows",
    "rival_rows",
    "with_certainty",
]
