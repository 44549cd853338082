"""Files of a ranker's weights, read strictly: nothing missing, nothing left over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blender_med.errors import ConfigError, DataError
from blender_med.models import check_pickle, load_config, local_folder

# Parts of a backbone that a ranker does not use: pooler and language-modelling head.
UNUSED_WEIGHTS = r"(^|\.)(pooler|lm_head)\.|\.(position_ids|final_logits_bias)$"

# What the backbones call their dropouts (not those of heads that a ranker does not use).
_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT, RoBERTa, MPNet, DeBERTa
    *("embedding_dropout", "attention_dropout", "mlp_dropout"),  # ModernBERT
    *("dropout", "activation_dropout", "dropout_rate"),  # BART; T5
)

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
_PICKLE = "pytorch_model.bin"
_SINGLE = "model.safetensors"

Weights = dict[str, torch.Tensor]


def dropout_settings(
    path: str | Path, revision: str | None, dropout: float | None
) -> dict[str, float]:
    """The settings of a backbone's configuration that give all its layers this dropout.

    Args:
        path: Local folder, Hub id or package source of the backbone.
        revision: Of a Hub id.
        dropout: None: no setting, the backbone keeps its own.

    Raises:
        ConfigError: There is no such backbone, or it has no dropout.
    """
    if dropout is None:
        return {}
    config = load_config(path, revision)
    known = {name: dropout for name in _DROPOUTS if hasattr(config, name)}
    if not known:
        problem = f"a backbone of type {config.model_type} has no dropout"
        raise ConfigError(problem, key="backbone_dropout", value=dropout, fix="leave it out")
    return known


def checkpoint_folder(path: str | Path, revision: str | None = None) -> Path:
    """Folder of a checkpoint: local, in an installed package, or downloaded from the Hub.

    Raises:
        ConfigError: There is neither such a folder nor such a repository.
        MissingDependencyError: A package source whose package is not installed.
    """
    folder = local_folder(path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns = [*_HUB_FILES, _PICKLE]
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        problem = f"no such checkpoint: {str(error).partition(chr(10))[0]}"
        fix = "name an existing folder, a Hub id that this machine can reach, or package:NAME"
        raise ConfigError(problem, key="model", value=str(path), fix=fix) from error


def read_weights(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """All weights of a checkpoint, by name.

    Args:
        folder: Holds ``model.safetensors``, or its parts with their index.
        allow_pickle: Read ``pytorch_model.bin`` where there are no safetensors.

    Raises:
        DataError: There are none, only pickled ones that are not allowed, or a damaged file.
    """
    files = _safetensors(folder)
    if files:
        return {name: tensor for file in files for name, tensor in _read(file).items()}
    check_pickle(folder, allow_pickle=allow_pickle)
    if not (folder / _PICKLE).is_file():
        fix = f"the folder needs {_SINGLE}; check that the download or the copy was complete"
        raise DataError("the checkpoint has no weights", file=folder, fix=fix)
    return _read(folder / _PICKLE)


def _safetensors(folder: Path) -> list[Path]:
    index = folder / f"{_SINGLE}.index.json"
    if not index.is_file():
        return [folder / _SINGLE] if (folder / _SINGLE).is_file() else []
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(names))]


def _read(file: Path) -> Weights:
    try:
        if file.name == _PICKLE:
            # Tensors only: whatever else a pickle would build is an error.
            return torch.load(file, map_location="cpu", weights_only=True)
        return load_file(file)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        fix = "copy or download the file again"
        raise DataError(f"damaged weights: {error}", file=file, fix=fix) from error


def check_loaded(report: Mapping[str, Any], file: Path) -> None:
    """Check what transformers says about weights that it loaded.

    Weights that rankers do not use may be missing or left over (:data:`UNUSED_WEIGHTS`).

    Args:
        report: The loading info of ``from_pretrained``.
        file: Where the weights come from, for messages.

    Raises:
        DataError: Weights are missing, left over, or have another shape.
    """
    for name, given, asked in sorted(report["mismatched_keys"]):
        problem = f"weight {name} has the shape {list(given)}, the model's is {list(asked)}"
        fix = "use the configuration, the tokenizer and the backbone of this checkpoint"
        raise DataError(problem, file=file, fix=fix)
    _complain("lacks", report["missing_keys"], file)
    _complain("has, but its configuration does not,", report["unexpected_keys"], file)


def _complain(what: str, names: Iterable[str], file: Path) -> None:
    used = sorted(name for name in names if not re.search(UNUSED_WEIGHTS, name))
    if used:
        listed = ", ".join(used[:3]) + (", ..." if len(used) > 3 else "")
        problem = f"the checkpoint {what} {len(used)} weights: {listed}"
        fix = "name an undamaged checkpoint, and the backbone it was trained on"
        raise DataError(problem, file=file, fix=fix)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the weights of ``model``, each tied weight once."""
    first = {tensor.data_ptr(): name for name, tensor in reversed(model.state_dict().items())}
    kept = {name: t.contiguous() for name, t in model.state_dict().items()
            if first[t.data_ptr()] == name}  # fmt: skip
    save_file(kept, file, metadata={"format": "pt"})
