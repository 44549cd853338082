"""Medical question sets and text corpora in their original formats."""

from __future__ import annotations

from blender_med.data.loading import (
    load_dataset_config,
    load_datasets,
    load_passages,
    load_questions,
)
from blender_med.data.quarantine import Passages, QuarantinedRow, QuarantinedRows, Questions

__all__ = [
    "Passages",
    "QuarantinedRow",
    "QuarantinedRows",
    "Questions",
    "load_dataset_config",
    "load_datasets",
    "load_passages",
    "load_questions",
]
