"""How sure an expert is of the option that it chose."""

from __future__ import annotations

import numpy as np

from blender_med.records import Candidate
from blender_med.stages.methods.board import Floats


def own_confidence(candidate: Candidate) -> float | None:
    """Share of a candidate's option in the likelihoods of its options; None without them."""
    values = np.array(candidate.option_logprobs or (), dtype=np.float64)
    choice = candidate.choice_index
    if choice is None or choice >= len(values) or not np.isfinite(values.max()):
        return None
    return float(min(1.0, np.exp(log_softmax(values)[choice])))


def log_softmax(values: Floats) -> Floats:
    """Normalised over the last axis; -inf stays, the highest must be finite."""
    shifted = values - values.max(axis=-1, keepdims=True)
    normal: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normal
