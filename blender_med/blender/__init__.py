"""The drop-in replacement of ``llm_blender.Blender``."""

from __future__ import annotations

from blender_med.blender.drop_in import Blender
from blender_med.blender.ranking import BlenderConfig

__all__ = ["Blender", "BlenderConfig"]
