"""What a method is to the reader: an expert, a simple baseline, an ensemble, an upper bound."""

from __future__ import annotations

from typing import Literal

from blender_med.stages.methods import BEST_SINGLE, ORACLE, MethodSettings

Kind = Literal["expert", "baseline", "ensemble", "upper bound", "other"]
KINDS: tuple[Kind, ...] = ("ensemble", "expert", "baseline", "upper bound", "other")
_EXPERT = "expert"
BUILT_IN: dict[str, Kind] = {
    _EXPERT: "expert",
    BEST_SINGLE: "expert",
    "random": "baseline",
    "constant": "baseline",
    "self_consistency": "baseline",
    "majority_vote": "ensemble",
    "weighted_vote": "ensemble",
    "mean_logprob": "ensemble",
    "stacking": "ensemble",
    "mbr": "ensemble",
    ORACLE: "upper bound",
}


class Kinds:
    """Kinds of the methods of a run.

    The run's own rankers, fusers and gates are ensembles. A name that is neither theirs nor
    built in is ``other``: it is shown, and never judged as the ensemble.

    Args:
        settings: Of the methods.
    """

    def __init__(self, settings: MethodSettings) -> None:
        self._combining = frozenset(settings.combining)

    def __call__(self, method: str) -> Kind:
        """Kind of a method by its name."""
        if method in self._combining:
            return "ensemble"
        return BUILT_IN.get(method.partition(":")[0], "other")


def short(method: str) -> str:
    """Name for a figure: the kind of an expert shows by its colour and mark."""
    return method.removeprefix(f"{_EXPERT}:")
