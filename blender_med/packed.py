"""Linear layers with weights in oneDNN's own layout, for inference on a CPU.

A plain ``nn.Linear`` reorders its weight on every call (bfloat16) or runs through MKL (float32);
here the weight is packed once. The operator is the one that PyTorch's own compiler emits; values
differ from the plain layer by rounding alone.
"""

from __future__ import annotations

import torch
from torch import nn

_EXPECTED_ROWS = 512  # hint for the layout; other numbers of rows run as well


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN runs this weight here: on a CPU, and in bfloat16 only where it has it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """An affine map [..., in] -> [..., out] with a packed weight [out, in]; no gradient.

    Args:
        weight: [out, in].
        bias: [out].
        activation: ``none``, ``relu`` or ``gelu`` (the exact one), computed as part of the map.

    Raises:
        ValueError: The weight cannot be packed, see :func:`can_pack`.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: str = "none"
    ) -> None:
        super().__init__()
        if not can_pack(weight):
            raise ValueError(f"a weight of type {weight.dtype} on {weight.device} is not packable")
        # Held in lists so that the model's ``to`` leaves the packed layout alone.
        detached = weight.detach().contiguous()
        self._packed = [torch.ops.mkldnn._reorder_linear_weight(detached, _EXPECTED_ROWS)]
        self._bias = [None if bias is None else bias.detach()]
        self._activation = activation

    @property
    def weight(self) -> torch.Tensor:
        """The packed weight; good for its ``dtype`` and ``device`` only."""
        return self._packed[0]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Apply the map to ``rows``, [..., in]."""
        # The last argument chooses the variant of gelu: not the tanh approximation.
        return torch.ops.mkldnn._linear_pointwise(
            rows, self._packed[0], self._bias[0], self._activation, [], "none"
        )

    def add(self, rows: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Apply the map to ``rows``, [..., in], and add ``residual``, [..., out]."""
        return torch.ops.mkldnn._linear_pointwise.binary(
            rows, residual, self._packed[0], self._bias[0], "add"
        )


def pack_linear_layers(model: nn.Module) -> nn.Module:
    """Replace every packable ``nn.Linear`` inside ``model``, in place; returns ``model``."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(parent, name, PackedLinear(child.weight, child.bias))
    return model
