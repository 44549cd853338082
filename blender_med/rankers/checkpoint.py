"""Rankers from checkpoints whose kind is not known beforehand."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.errors import ConfigError
from blender_med.models import read_config
from blender_med.rankers import RANKERS
from blender_med.rankers.weights import checkpoint_folder

if TYPE_CHECKING:
    import torch

_TRAINED = ("pairranker", "simcls", "summareranker")
_CLASSIFIER = "ForSequenceClassification"


def ranker_type(folder: Path) -> str:
    """Type of the ranker in a folder: ``pairranker``, ``simcls``, ``summareranker``, ``reward``.

    Raises:
        ConfigError: The folder holds no configuration, or not one of a ranker.
    """
    config = read_config(folder)
    if config.get("ranker_type") == "pairranker" or "cand1_prefix_id" in config:
        return "pairranker"
    if config.get("model_type") in _TRAINED:
        return str(config["model_type"])
    if any(_CLASSIFIER in name for name in config.get("architectures") or ()):
        return "reward"
    problem = "not a ranker, nor a sequence classifier to be used as a reward model"
    value = config.get("ranker_type") or config.get("model_type")
    fix = "name a PairRanker, SimCLS, SummaReranker, PairRM or reward model"
    raise ConfigError(problem, file=folder / "config.json", value=value, fix=fix)


def load_ranker(
    path: str | Path,
    *,
    device: torch.device,
    backbone: str | Path | None = None,
    source_maxlength: int | None = None,
    candidate_maxlength: int | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Any:
    """The ranker of a checkpoint.

    Args:
        path: Local folder, Hub id or package source.
        device: Where to put it.
        backbone: See :meth:`PairRanker.from_pretrained`.
        source_maxlength: In place of the checkpoint's.
        candidate_maxlength: In place of the checkpoint's.
        dtype: Of the weights.
        revision: Of a Hub id.
        allow_pickle: Read pickled weights where there are no safetensors.

    Raises:
        ConfigError: There is no such checkpoint, or not one of a ranker; a setting does not fit
            its kind.
        DataError: Weights are missing, have another shape, or are pickled.
    """
    folder = checkpoint_folder(path, revision)
    kind = ranker_type(folder)
    lengths = {"source_maxlength": source_maxlength, "candidate_maxlength": candidate_maxlength}
    fields: dict[str, Any] = {"device": device, "dtype": dtype, "allow_pickle": allow_pickle}
    if kind == "pairranker":
        fields |= lengths | {"backbone": backbone}
    elif backbone is not None:
        problem = f"a {kind} ranker has no such setting"
        raise ConfigError(problem, key="backbone", value=str(backbone), fix="leave it out")
    elif kind == "reward":
        fields |= {key: value for key, value in lengths.items() if value is not None}
    ranker = RANKERS.load(kind).from_pretrained(folder, **fields)
    return with_lengths(ranker, **lengths) if kind in ("simcls", "summareranker") else ranker


def with_lengths(
    ranker: Any, source_maxlength: int | None = None, candidate_maxlength: int | None = None
) -> Any:
    """The ranker with other lengths; weights are shared. None leaves a length as it is."""
    lengths = {"source_maxlength": source_maxlength, "candidate_maxlength": candidate_maxlength}
    changed = {key: value for key, value in lengths.items() if value is not None}
    if not changed:
        return ranker
    other = copy.copy(ranker)
    other.config = copy.copy(ranker.config)
    for key, value in changed.items():
        setattr(other.config, key, value)
    for name in [name for name in vars(other) if _is_cached(type(other), name)]:
        delattr(other, name)
    return other


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)


def longest_row(ranker: Any) -> int:
    """Most tokens of a row, as far as the ranker's lengths say."""
    rows = 2 if hasattr(ranker, "pairwise_logits") else 1
    return int(ranker.config.source_maxlength + rows * ranker.config.candidate_maxlength)
