"""What a method is to the reader: an expert, a simple baseline, an ensemble, an upper bound."""

from __future__ import annotations

from typing import Literal

from blender_med.stages.comparison.estimates import is_upper_bound
from blender_med.stages.methods import BEST_SINGLE

Kind = Literal["expert", "baseline", "ensemble", "upper bound"]
KINDS: tuple[Kind, ...] = ("ensemble", "expert", "baseline", "upper bound")
_EXPERT = "expert"
# Methods of one expert, or of none.
_BASELINES = {"random", "constant", "self_consistency"}


def kind(method: str) -> Kind:
    """Kind of a method by its name; every ranker, vote and fuser is an ensemble."""
    name = method.partition(":")[0]
    if is_upper_bound(method):
        return "upper bound"
    if name == _EXPERT or method == BEST_SINGLE:
        return "expert"
    return "baseline" if name in _BASELINES else "ensemble"


def short(method: str) -> str:
    """Name for a figure: the kind of an expert shows by its colour and mark."""
    return method.removeprefix(f"{_EXPERT}:")
