"""Pretrained models behind rankers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from blender_med.models import check_vocabulary, load_pretrained, load_tokenizer, torch_device


def load_model(
    auto_class: Any,
    path: str | Path,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    revision: str | None,
    *,
    optional: str = r"$.",
    allow_pickle: bool = False,
) -> tuple[Any, Any]:
    """A model in evaluation mode on its device, and its tokenizer.

    Args:
        auto_class: Such as ``transformers.AutoModel``.
        path: Local folder, Hub id or package source.
        dtype: Of the weights, whatever the checkpoint stores.
        device: Where to put the model; None: CUDA where there is one.
        revision: Of a Hub id.
        optional: Pattern of weights that the checkpoint need not have.
        allow_pickle: Read pickled weights where there are no safetensors.

    Raises:
        ConfigError: There is no such model or device, or the tokenizer is not the model's.
        DataError: Weights are missing, have another shape or are pickled.
    """
    place = device if isinstance(device, torch.device) else torch_device(device)
    model = load_pretrained(
        auto_class, path, dtype=dtype_name(dtype), optional=optional, revision=revision,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    tokenizer = load_tokenizer(path, revision)
    check_vocabulary(model, tokenizer, path)
    return model.to(place), tokenizer


def dtype_name(dtype: str | torch.dtype) -> str:
    """Name of a torch type, such as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def placed(device: str | torch.device | None) -> torch.device:
    """Where a model goes: the device named; None: the CPU.

    Raises:
        ConfigError: There is no such device.
    """
    return device if isinstance(device, torch.device) else torch_device(device or "cpu")
