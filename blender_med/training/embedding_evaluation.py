"""Figures of a trained embedding fuser on dev, for its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from blender_med.data.embedded import StateExample
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import StateStore
from blender_med.fusers.state_batches import StateBatches, choose
from blender_med.metrics.calibration import ece
from blender_med.training.embedding_config import EmbeddingFuserJob
from blender_med.training.embedding_trainer import (
    LabelledBatches,
    writing_measure,
)

_ALL = "all"


def dev_columns(
    fuser: EmbeddingFuser,
    job: EmbeddingFuserJob,
    store: StateStore,
    dev: Sequence[StateExample],
) -> Mapping[str, Mapping[str, float]]:
    """Figures of all dev examples, and of those of each data set where there are several."""
    names = list(dict.fromkeys(example.dataset for example in dev))
    parts = {_ALL: list(dev)}
    if len(names) > 1:
        parts |= {name: [e for e in dev if e.dataset == name] for name in names}
    batches = StateBatches(store, fuser.config)
    if job.writes:
        collate = LabelledBatches(batches, fuser.tokenizer, job.training.target_maxlength)
        measured = {name: writing_measure(fuser, collate, own) for name, own in parts.items()}
        return {
            name: {"log_likelihood": own.value} | _weights(fuser, own.weights)
            for name, own in measured.items()
        }
    return {name: _choice_figures(fuser, batches, own) for name, own in parts.items()}


def _choice_figures(
    fuser: EmbeddingFuser, batches: StateBatches, examples: Sequence[StateExample]
) -> dict[str, float]:
    """Accuracy, calibration error, and the mean weight of each expert."""
    chosen = list(choose(fuser, batches, examples))
    right = [
        float(own.probabilities.argmax() == example.gold)
        for own, example in zip(chosen, examples, strict=True)
    ]
    sure = [min(1.0, float(own.probabilities.max())) for own in chosen]
    weights = np.mean([own.weights for own in chosen], axis=0)
    return {"accuracy": fmean(right), "ece": ece(sure, right)} | _weights(fuser, weights)


def _weights(fuser: EmbeddingFuser, weights: NDArray[np.float64]) -> dict[str, float]:
    names = fuser.config.experts
    return {f"weight of {n}": w for n, w in zip(names, weights.tolist(), strict=True)}
