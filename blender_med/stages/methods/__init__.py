"""Methods that turn candidates into answers, by name. Light: no method is imported here.

A method is a pure function ``method(board, settings, argument) -> Iterator[Answer]``; the argument
is what follows the colon of its name (``expert:smollm2-135m``), or "". Every ranker of stage
rank and every fuser of stage fuse is a method too, under its own name; see
:mod:`blender_med.stages.methods.ranked` and :mod:`blender_med.stages.methods.fused`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blender_med.records import Protocol, Task
from blender_med.registry import Registry

BEST_SINGLE = "best_single"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """What methods need to know beside the candidates.

    Attributes:
        seed: Seed of the run, for random choices.
        primary_long: Metric that picks and compares long answers.
        primary_mcq: The same for multiple choice.
        mbr_utility: Text metric that MBR decoding takes the expectation of.
        combining: Methods of the run's own that combine experts: rankers, fusers, gates.
    """

    seed: int = 0
    primary_long: str = "rougeL"
    primary_mcq: str = "correct"
    mbr_utility: str = "chrf"
    combining: tuple[str, ...] = ()

    def primary(self, task: Task) -> str:
        """The primary metric of a task."""
        return self.primary_mcq if task == "mcq" else self.primary_long


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """What a method is.

    Attributes:
        target: ``"module:function"``.
        tasks: Tasks it applies to.
        argument: What follows the colon of its name; None where nothing does.
        fitted: Splits it learns from; it needs a question with a known answer in one of them.
        protocols: Protocols of the candidates that it applies to.
    """

    target: str
    tasks: tuple[Task, ...] = ("mcq", "long")
    argument: Literal["expert", "metric"] | None = None
    fitted: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = ("lm_eval", "generative")


_HERE = "blender_med.stages.methods"
METHOD_SPECS: dict[str, MethodSpec] = {
    "expert": MethodSpec(f"{_HERE}.single:expert", argument="expert"),
    BEST_SINGLE: MethodSpec(f"{_HERE}.single:best_single", fitted=("dev",)),
    "random": MethodSpec(f"{_HERE}.single:random_pick"),
    "constant": MethodSpec(f"{_HERE}.single:constant", ("mcq",), fitted=("train", "dev")),
    "majority_vote": MethodSpec(f"{_HERE}.voting:majority_vote", ("mcq",)),
    "weighted_vote": MethodSpec(f"{_HERE}.voting:weighted_vote", ("mcq",), fitted=("dev",)),
    "mean_logprob": MethodSpec(
        f"{_HERE}.likelihood:mean_logprob", ("mcq",), protocols=("lm_eval",)
    ),
    "stacking": MethodSpec(
        f"{_HERE}.likelihood:stacking", ("mcq",), fitted=("train", "dev"), protocols=("lm_eval",)
    ),
    "self_consistency": MethodSpec(f"{_HERE}.voting:self_consistency", ("mcq",), "expert"),
    "mbr": MethodSpec(f"{_HERE}.mbr:mbr", ("long",)),
    ORACLE: MethodSpec(f"{_HERE}.single:oracle", argument="metric"),
}

METHODS = Registry("method", {name: spec.target for name, spec in METHOD_SPECS.items()})
