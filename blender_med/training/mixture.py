"""Names of a mixture's weights: as Mixtral was published, which every engine reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blender_med.store.files import write_json

_INDEX = "model.safetensors.index.json"
_JOINT, _DOWN, _GATE = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj", ".mlp.gate.weight"


def rename_mixture(folder: Path) -> None:
    """Rewrite the weights that mergekit names as transformers holds them in memory."""
    places: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = dict(published(load_file(file)))
        save_file(tensors, file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file.name)
    if (folder / _INDEX).is_file():
        write_json(folder / _INDEX, {"metadata": {}, "weight_map": places})


def published(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by the names of Mixtral's checkpoints.

    The experts of a layer lie in one tensor, [experts, 2 x inner, width] (``w1`` above ``w3``) and
    [experts, width, inner] (``w2``); each becomes a tensor of its own.
    """
    for name, tensor in tensors.items():
        layer = name.partition(".mlp.")[0] + ".block_sparse_moe"
        if name.endswith(_JOINT):
            for i, both in enumerate(tensor):
                first, third = both.chunk(2)
                yield f"{layer}.experts.{i}.w1.weight", first.contiguous()
                yield f"{layer}.experts.{i}.w3.weight", third.contiguous()
        elif name.endswith(_DOWN):
            for i, own in enumerate(tensor):
                yield f"{layer}.experts.{i}.w2.weight", own.contiguous()
        else:
            yield (f"{layer}.gate.weight" if name.endswith(_GATE) else name), tensor
