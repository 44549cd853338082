"""What an expert and its engine process say to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blender_med.experts.base import Completion
from blender_med.experts.config import ExpertConfig, Sampling, StateConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine loads.

    Attributes:
        engine: ``vllm`` or ``transformers``.
        config: Recipe of one of the experts that share the engine; only what is part of the
            engine key counts.
        model: Local folder or Hub id.
        revision: Commit of a Hub id; None for a folder.
        loras: Folders of the adapters the engine must be able to serve.
        cuda: Whether it runs on CUDA.
        states: Which hidden states it gives; None: it generates and scores.
    """

    engine: str
    config: ExpertConfig
    model: str
    revision: str | None
    loras: tuple[str, ...]
    cuda: bool
    states: StateConfig | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt as token ids; sample k is drawn with ``seed + k``. ``lora``: None is the base.

    ``stop_token_ids`` end an answer beside those that the model names.
    """

    token_ids: list[int]
    seed: int
    lora: str | None = None
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """One prompt and its choices as token ids, [n_choices][choice length]."""

    token_ids: list[int]
    choices: list[list[int]]
    lora: str | None = None

    @property
    def single_token(self) -> bool:
        """Whether one forward pass of the prompt scores every choice."""
        return all(len(choice) == 1 for choice in self.choices)


@dataclass(frozen=True, slots=True)
class StateRequest:
    """One text as token ids, at least one."""

    token_ids: list[int]
    lora: str | None = None


class Engine(Protocol):
    """A loaded model inside its process. ``tick`` is called whenever work has gone on."""

    def generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, n: int, tick: Tick
    ) -> list[list[Completion]]:
        """Completions, [n_requests][n]."""
        ...

    def choice_logprobs(self, requests: Sequence[ChoiceRequest], tick: Tick) -> list[list[float]]:
        """Summed log-likelihoods in nats, [n_requests][n_choices]."""
        ...

    def hidden_states(
        self, requests: Sequence[StateRequest], tick: Tick
    ) -> list[NDArray[np.float32]]:
        """States as ``EngineSpec.states`` asks for, [slots, width] for each request."""
        ...
