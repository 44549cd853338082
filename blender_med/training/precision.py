"""The number format that training computes in."""

from __future__ import annotations

from typing import Literal

from blender_med.experts.engines import cpu_has_bfloat16
from blender_med.training.config import Precision


def resolved_precision(setting: Literal["auto"] | Precision) -> Precision:
    """``auto`` is bfloat16 where this machine's GPU, or else its CPU, multiplies in it.

    It changes the numbers, so it is part of a result.
    """
    import torch

    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = cpu_has_bfloat16()
    return "bfloat16" if has_bfloat16 else "float32"
