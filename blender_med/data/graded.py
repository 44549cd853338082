"""Candidates that come with scores: the training and test material of rankers."""

from __future__ import annotations

from typing import NamedTuple

from blender_med.data.quarantine import QuarantinedRows
from blender_med.records import Candidate, Score


class GradedCandidates(NamedTuple):
    """Candidates of a data set, their scores (higher is better), and the refused rows."""

    candidates: list[Candidate]
    scores: list[Score]
    quarantined: QuarantinedRows
