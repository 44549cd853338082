"""How questions are put to experts: samples, protocols, devices; part of stage recipes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from blender_med.config import InvalidValueError, Recipe
from blender_med.experts.config import Sampling


def _needs_temperature(samples: int, sampling: Sampling) -> None:
    if samples > 1 and sampling.temperature == 0:
        raise ValueError("samples > 1 needs sampling.temperature > 0: greedy samples are equal")


class LongGeneration(Recipe):
    """Long-form answers: ``samples`` per expert, sample 0 is the expert's own answer."""

    samples: int = Field(1, ge=1)
    sampling: Sampling = Sampling(temperature=0.7, top_k=50, max_tokens=192)

    @model_validator(mode="after")
    def _samples_differ(self) -> LongGeneration:
        _needs_temperature(self.samples, self.sampling)
        return self


class ChoiceGeneration(Recipe):
    """Multiple-choice answers by log-likelihood (``lm_eval``), as text (``generative``) or both."""

    protocols: tuple[Literal["lm_eval", "generative"], ...] = Field(("lm_eval",), min_length=1)
    samples: int = Field(1, ge=1, description="generated answers per expert")
    sampling: Sampling = Sampling(max_tokens=96)

    @model_validator(mode="after")
    def _samples_differ(self) -> ChoiceGeneration:
        _needs_temperature(self.samples, self.sampling)
        return self

    @field_validator("protocols")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a protocol stands twice")
        return value


def _check_gpu_ids(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for device in value or ():
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", device):
            fix = "name GPUs by their numbers, such as ['0', '1']; leave it out on a CPU"
            raise InvalidValueError(f"'{device}' is no GPU", fix=fix)
    return value


GpuIds = Annotated[tuple[str, ...] | None, AfterValidator(_check_gpu_ids)]
