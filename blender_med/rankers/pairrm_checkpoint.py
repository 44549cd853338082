"""Checkpoints of the pairwise ranker: our own layout and both layouts of PairRM.

- own: ``config.json`` of a :class:`PairRankerConfig`;
- original (llm-blender/PairRM): ``config.json`` is llm-blender's RankerConfig, which names the
  backbone but does not describe it;
- hf (llm-blender/PairRM-hf): ``config.json`` is the backbone's, with the ids of the prefixes
  added and without lengths.

The names of the weights are the same in all three.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from blender_med.errors import ConfigError
from blender_med.models import explained, load_config, load_tokenizer, read_config
from blender_med.rankers.collate import add_prefixes
from blender_med.rankers.pair_config import PairRankerConfig, check_lengths
from blender_med.rankers.pairranker import PairRanker, prefix_fields
from blender_med.rankers.weights import (
    check_loaded,
    checkpoint_folder,
    read_weights,
    save_weights,
)

# Fields that llm-blender's RankerConfig and ours share, with the same meaning.
_SHARED = (
    "source_maxlength",
    "candidate_maxlength",
    "n_tasks",
    "num_pos",
    "num_neg",
    "sub_sampling_mode",
    "sub_sampling_ratio",
    "loss_type",
    "drop_out",
)
_TOKENIZER_FILES = ("tokenizer.json", "spm.model", "spiece.model", "vocab.txt", "vocab.json")


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Folder of a checkpoint and its ``config.json``."""

    folder: Path
    config: dict[str, Any]

    @property
    def has_tokenizer(self) -> bool:
        return any((self.folder / name).is_file() for name in _TOKENIZER_FILES)


def load(
    path: str | Path,
    backbone: str | Path | None,
    lengths: Mapping[str, int | None],
    *,
    allow_pickle: bool,
    revision: str | None,
) -> PairRanker:
    """Load a checkpoint in any of the three layouts, float32, on the CPU.

    Args:
        path: Folder, Hub id or package source.
        backbone: The same, in place of the backbone that the checkpoint names.
        lengths: ``source_maxlength`` and ``candidate_maxlength``; None keeps the checkpoint's.
        allow_pickle: Read ``pytorch_model.bin`` where there are no safetensors.
        revision: Of a Hub id.

    Raises:
        ConfigError: No such checkpoint, not a PairRanker, or a tokenizer that does not fit.
        DataError: Weights are missing, unknown, of another shape, or pickled.
    """
    checkpoint = _opened(path, revision)
    _check_pairranker(checkpoint)
    source = _backbone_source(checkpoint, backbone)
    tokenizer = _tokenizer(checkpoint, source)
    fields = {name: value for name, value in lengths.items() if value is not None}
    with explained(path):
        config = _ranker_config(checkpoint, source, tokenizer, fields)
    check_lengths(config)
    weights = read_weights(checkpoint.folder, allow_pickle=allow_pickle)
    with explained(path):
        model, report = PairRanker.from_weights(config, tokenizer, weights)
    check_loaded(report, checkpoint.folder)
    return model


def _opened(path: str | Path, revision: str | None) -> _Checkpoint:
    folder = checkpoint_folder(path, revision)
    return _Checkpoint(folder, read_config(folder))


def _backbone_source(checkpoint: _Checkpoint, given: str | Path | None) -> str | Path | None:
    """Where the backbone is described; None: in the checkpoint's own configuration."""
    if given is not None:
        return given
    name = checkpoint.config.get("model_name")
    if "ranker_type" not in checkpoint.config or name is None:
        return None
    beside = (checkpoint.folder.parent / name, checkpoint.folder / name)
    return next((folder for folder in beside if folder.is_dir()), name)


def _tokenizer(checkpoint: _Checkpoint, backbone: str | Path | None) -> Any:
    if checkpoint.has_tokenizer or backbone is None:
        return load_tokenizer(checkpoint.folder)
    # As llm-blender does: its older checkpoints come without a tokenizer.
    tokenizer = load_tokenizer(backbone)
    add_prefixes(tokenizer)
    return tokenizer


def _ranker_config(
    checkpoint: _Checkpoint, backbone: str | Path | None, tokenizer: Any, lengths: dict[str, int]
) -> PairRankerConfig:
    raw, ids = checkpoint.config, prefix_fields(tokenizer)
    own = load_config(backbone) if backbone is not None else None
    if raw.get("model_type") == PairRankerConfig.model_type:
        saved = {"backbone_config": own} if own is not None else {}
        return PairRankerConfig.from_dict(raw | saved | lengths)
    if own is None:
        own = AutoConfig.for_model(**raw)
    elif "ranker_type" in raw:
        own.vocab_size = len(tokenizer)
    shared = {name: raw[name] for name in _SHARED if raw.get(name) is not None}
    return PairRankerConfig(backbone_config=own, **(shared | ids | lengths))


def _check_pairranker(checkpoint: _Checkpoint) -> None:
    raw, file = checkpoint.config, checkpoint.folder / "config.json"
    if raw.get("model_type") == PairRankerConfig.model_type:
        return
    if "ranker_type" in raw:
        if raw["ranker_type"] == "pairranker" and raw.get("reduce_type", "linear") == "linear":
            return
        problem, key = "this checkpoint of llm-blender is no PairRanker", "ranker_type"
    elif "cand1_prefix_id" in raw and "model_type" in raw:
        return
    else:
        problem, key = "this configuration is of no PairRanker", "model_type"
    fix = "name a PairRanker, or start one with PairRanker.from_backbone"
    raise ConfigError(problem, file=file, key=key, value=raw.get(key), fix=fix)


def export_pairrm(model: PairRanker, folder: str | Path) -> None:
    """Write ``model`` as llm-blender 0.0.2 reads it: the original PairRM layout.

    The folder holds the ranker and, in ``backbone/``, the backbone that its ``config.json``
    names; llm-blender resolves that name against its working directory, so it is absolute.

    Args:
        model: With its tokenizer, which must be a fast one.
        folder: Made if missing; files in it are overwritten.
    """
    target = Path(folder).resolve()
    backbone = target / "backbone"
    model.pretrained_model.save_pretrained(backbone)
    for place in (target, backbone):
        model.tokenizer.save_pretrained(place)
    save_weights(model, target / "model.safetensors")
    raw = {name: getattr(model.config, name) for name in _SHARED}
    raw |= {"ranker_type": "pairranker", "model_name": str(backbone), "fp16": False}
    raw |= {"model_type": model.config.backbone_config.model_type, "inference_mode": "bubble"}
    (target / "config.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
