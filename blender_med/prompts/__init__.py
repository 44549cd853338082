"""Prompts: task templates, evaluation protocols, truncation, and the parser of answers."""

from __future__ import annotations

from blender_med.prompts.parse import parse_choice, parse_choice_mirage
from blender_med.prompts.protocols import lm_eval_choices, lm_eval_prompt
from blender_med.prompts.templates import TEMPLATES, chat_messages, plain_prompt

__all__ = [
    "TEMPLATES",
    "chat_messages",
    "lm_eval_choices",
    "lm_eval_prompt",
    "parse_choice",
    "parse_choice_mirage",
    "plain_prompt",
]
