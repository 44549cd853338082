"""Experts: language models behind one protocol, whichever engine runs them."""

from __future__ import annotations

from blender_med.experts.base import ChoiceScores, Completion, Expert, Prompt, StateExpert
from blender_med.experts.config import ExpertConfig, Sampling, StateConfig
from blender_med.experts.engines import engine_choice, engine_key
from blender_med.experts.loading import (
    load_expert,
    load_expert_config,
    load_experts,
    load_state_experts,
)

__all__ = [
    "ChoiceScores",
    "Completion",
    "Expert",
    "ExpertConfig",
    "Prompt",
    "Sampling",
    "StateConfig",
    "StateExpert",
    "engine_choice",
    "engine_key",
    "load_expert",
    "load_expert_config",
    "load_experts",
    "load_state_experts",
]
