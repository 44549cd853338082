"""Whether a LoRA adapter belongs to its base and fits the engine; weights' headers are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blender_med.errors import ExpertError
from blender_med.experts.config import ExpertConfig
from blender_med.store.files import read_json
from blender_med.store.manifest import read_manifest

HIGHEST_RANK = 512  # that vLLM serves
_PREFIX = "base_model.model."


def check_adapter(config: ExpertConfig, base: Path, base_revision: str, engine: str) -> None:
    """Check the adapter of an expert before its engine starts.

    Args:
        config: The recipe; one without ``lora`` passes.
        base: Folder of the base's weights; where it is none (a Hub id), shapes are not compared.
        base_revision: Identity of the base's weights.
        engine: ``vllm`` or ``transformers``.

    Raises:
        ExpertError: The folder holds no adapter, or one for another base or of too high a rank.
    """
    if config.lora is None:
        return
    folder = Path(config.lora)
    settings = read_json(folder / "adapter_config.json")
    if not isinstance(settings, dict):
        raise _refused(config, "the folder holds no adapter", "name one with adapter_config.json")
    rank = adapter_rank(settings)
    if engine == "vllm" and rank > HIGHEST_RANK:
        fix = "merge it into a model ('save: merged'), or set 'engine: transformers'"
        raise _refused(config, f"its rank {rank} is above the engine's limit {HIGHEST_RANK}", fix)
    manifest = read_manifest(folder)
    tuned_on = str(manifest.identity.get("base")) if manifest else base_revision
    if tuned_on.partition("+")[0] != base_revision:  # a tokenizer of its own may follow
        raise _refused(config, "it was tuned on other weights", "name the base it was tuned on")
    _check_shapes(config, folder, base)


def adapter_rank(settings: Mapping[str, Any]) -> int:
    """Highest rank in ``adapter_config.json``."""
    return max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])


def _check_shapes(config: ExpertConfig, folder: Path, base: Path) -> None:
    own, known = _shapes(folder), _shapes(base)
    for name, shape in own.items() if known else ():
        stem, _, part = name.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight"):
            continue
        target = known.get(f"{stem}.weight")
        side = 1 if part == "A.weight" else 0
        if target is None or target[side] != shape[side]:
            has = "no such layer" if target is None else f"shape {list(target)}"
            problem = (
                f"it was made for another base: {stem} has shape {list(shape)}, the base {has}"
            )
            raise _refused(config, problem, "name the base it was tuned on")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights of a folder by name, from the headers of its safetensors."""
    return {
        name: tuple(entry["shape"])
        for file in sorted(folder.glob("*.safetensors"))
        for name, entry in _header(file)
    }


def _header(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        tree = json.loads(stream.read(length))
    return ((name, entry) for name, entry in tree.items() if name != "__metadata__")


def _refused(config: ExpertConfig, problem: str, fix: str) -> ExpertError:
    whole = f"the adapter of expert '{config.name}' cannot be used: {problem}"
    return ExpertError(whole, key="lora", value=config.lora, fix=fix)
