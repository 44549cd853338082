"""Settings of the gates; light, torch is not imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blender_med.config import Recipe


class DenseGateConfig(Recipe):
    """Softmax of a linear layer: every expert takes part."""

    type: Literal["dense"] = "dense"


class NoisyTopKConfig(Recipe):
    """Noisy top-k gating (Shazeer et al. 2017).

    With ``k`` 1 the only weight is 1 whatever the logits are: then the load loss alone teaches
    the gate.
    """

    type: Literal["noisy_topk"] = "noisy_topk"
    k: int = Field(2, ge=1)
    importance_weight: float = Field(0.1, ge=0, description="w of the paper's importance loss")
    load_weight: float = Field(0.1, ge=0, description="w of the paper's load loss")


class TopKSoftmaxConfig(Recipe):
    """Softmax over the top-k logits (Mixtral, Jiang et al. 2024).

    With ``k`` 1 the only weight is 1: then the balance loss alone teaches the gate.
    """

    type: Literal["topk_softmax"] = "topk_softmax"
    k: int = Field(2, ge=1)
    balance_weight: float = Field(0.02, ge=0, description="weight of the load-balancing loss")


GateConfig = Annotated[
    DenseGateConfig | NoisyTopKConfig | TopKSoftmaxConfig, Field(discriminator="type")
]
