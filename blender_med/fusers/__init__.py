"""Fusers: models that write one answer from several. Light: none is loaded here."""

from __future__ import annotations

from blender_med.registry import Registry

FUSERS = Registry("fuser", {"genfuser": "blender_med.fusers.genfuser:GenFuser"})
