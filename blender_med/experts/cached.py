"""An expert whose answers are looked up in the generation cache before the engine is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blender_med.config import result_fields
from blender_med.experts.base import ChoiceScores, Completion, Expert, Prompt
from blender_med.experts.config import Sampling
from blender_med.store.cache import GenerationCache
from blender_med.store.files import canonical_sha256

# Settings that change the numbers a model computes; the others shape the prompt, which is
# part of every key by itself.
_NUMERIC_SETTINGS = ("engine", "quantization", "engine_options")


@dataclass(frozen=True, slots=True)
class Answered:
    """Completions of one prompt and the seconds the engine spent on them when it made them."""

    completions: tuple[Completion, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Choice scores of one prompt and the seconds the engine spent on them."""

    scores: ChoiceScores
    seconds: float


def cache_identity(expert: Expert, engine: str, dtype: str) -> str:
    """Hash of the weights, the engine and number format, and what else changes its numbers."""
    settings = {k: v for k, v in result_fields(expert.config).items() if k in _NUMERIC_SETTINGS}
    identity = {"revision": expert.revision, **settings, "engine": engine, "dtype": dtype}
    return canonical_sha256(identity)


class CachedExpert:
    """Answers requests from ``cache`` and asks ``expert`` for the rest, in one batch.

    Args:
        expert: The engine.
        cache: Answers of this model identity; None asks the engine for everything.
    """

    def __init__(self, expert: Expert, cache: GenerationCache | None) -> None:
        self.expert = expert
        self._cache = cache

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[Answered]:
        """``n`` completions for each prompt, [n_prompts]."""
        settings = sampling.model_dump(mode="json")
        keys = [
            canonical_sha256({"prompt": _read_as(p), "sampling": settings, "n": n, "seed": s})
            for p, s in zip(prompts, seeds, strict=True)
        ]

        def compute(missing: list[int]) -> list[Any]:
            made = self.expert.generate(
                [prompts[i] for i in missing], sampling, n=n, seeds=[seeds[i] for i in missing]
            )
            return [[asdict(c) for c in completions] for completions in made]

        found = self._lookup(keys, compute, _completion_tokens)
        return [Answered(tuple(Completion(**c) for c in v), s) for v, s in found]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[Scored]:
        """Log-likelihood of each choice after each prompt, [n_prompts]."""
        keys = [
            canonical_sha256({"prompt": _read_as(p), "choices": list(c)})
            for p, c in zip(prompts, choices, strict=True)
        ]

        def compute(missing: list[int]) -> list[Any]:
            made = self.expert.choice_logprobs(
                [prompts[i] for i in missing], [choices[i] for i in missing]
            )
            return [{"logprobs": list(m.logprobs), "prompt_tokens": m.prompt_tokens} for m in made]

        found = self._lookup(keys, compute, lambda value: int(value["prompt_tokens"]))
        return [Scored(ChoiceScores(tuple(v["logprobs"]), v["prompt_tokens"]), s) for v, s in found]

    def _lookup(
        self,
        keys: list[str],
        compute: Callable[[list[int]], list[Any]],
        weight: Callable[[Any], int],
    ) -> list[tuple[Any, float]]:
        known = self._cache.get(keys) if self._cache else {}
        first_of = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
        missing = sorted(first_of.values())
        if missing:
            started = time.perf_counter()
            made = compute(missing)
            shares = _shares(time.perf_counter() - started, [weight(value) for value in made])
            new = {keys[i]: [v, s] for i, v, s in zip(missing, made, shares, strict=True)}
            if self._cache:
                self._cache.put(new)
            known = known | new
        return [(known[key][0], known[key][1]) for key in keys]


def _read_as(prompt: Prompt) -> list[object]:
    """What decides the token ids that the model reads, and where it stops."""
    stops = [list(prompt.stop_token_ids)] if prompt.stop_token_ids else []
    return [prompt.text, prompt.add_special_tokens, *stops]


def _completion_tokens(completions: list[dict[str, Any]]) -> int:
    return sum(c["prompt_tokens"] + c["completion_tokens"] for c in completions)


def _shares(seconds: float, weights: list[int]) -> list[float]:
    total = sum(weights) or 1
    return [seconds * weight / total for weight in weights]
