"""blender_med: ask several open language models, rank their answers, compose a better one.

The names below load their implementation on first use, so that ``import blender_med`` needs
none of the heavy libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blender_med.blender import Blender, BlenderConfig
    from blender_med.data import load_passages, load_questions
    from blender_med.errors import BlenderMedError
    from blender_med.records import Answer, Candidate, Passage, Question, Ranking, Score

__version__ = "0.1.0"

_EXPORTS = {
    "Answer": "blender_med.records",
    "Blender": "blender_med.blender",
    "BlenderConfig": "blender_med.blender",
    "BlenderMedError": "blender_med.errors",
    "Candidate": "blender_med.records",
    "Passage": "blender_med.records",
    "Question": "blender_med.records",
    "Ranking": "blender_med.records",
    "Score": "blender_med.records",
    "load_passages": "blender_med.data",
    "load_questions": "blender_med.data",
}

__all__ = [
    "Answer",
    "Blender",
    "BlenderConfig",
    "BlenderMedError",
    "Candidate",
    "Passage",
    "Question",
    "Ranking",
    "Score",
    "__version__",
    "load_passages",
    "load_questions",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'blender_med' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
