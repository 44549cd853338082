"""Which devices experts run on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, without importing torch; [] on a CPU machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = listing.stdout.splitlines() if listing.returncode == 0 else []
    return [str(i) for i, _ in enumerate(line for line in lines if line.startswith("GPU "))]


def device_slots(devices: Sequence[str] | None, per_engine: int) -> list[str | None]:
    """Places where one engine each can run.

    Args:
        devices: GPU ids from the recipe; None takes every visible one.
        per_engine: GPUs of one engine (tensor parallel size).

    Returns:
        ``cuda:`` and comma-joined GPU ids, one string per engine; [None] stands for the CPU.
    """
    ids = list(devices) if devices is not None else visible_gpus()
    whole = len(ids) // per_engine
    slots: list[str | None] = [
        "cuda:" + ",".join(ids[i * per_engine : (i + 1) * per_engine]) for i in range(whole)
    ]
    return slots or [None]
