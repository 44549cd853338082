"""A deterministic expert without a model, for tests and dry runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from pydantic import Field

from blender_med.config import Recipe, parse, speed_only
from blender_med.errors import ExpertError
from blender_med.experts.base import ChoiceScores, Completion, Prompt
from blender_med.experts.config import ExpertConfig, Sampling, StateConfig
from blender_med.prompts.protocols import lm_eval_choices, lm_eval_prompt
from blender_med.prompts.templates import plain_prompt
from blender_med.prompts.truncate import fit_context
from blender_med.records import Question
from blender_med.store.files import canonical_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FILLER = ("is", "often", "treated", "with", "and", "may", "cause", "the", "patient", "should")
_LONGEST_REFERENCE = 80  # words of a reference that are remembered


class FakeOptions(Recipe):
    """``engine_options`` of the fake engine.

    Attributes:
        accuracy: Share of multiple-choice questions answered right, and the share of a
            reference's words that a long answer repeats. None: knows nothing.
        hidden_size: Width of its hidden states.
        fail_after: Raise after this many requests.
        seconds_per_request: Sleep this long for each request.
    """

    accuracy: float | None = Field(None, ge=0, le=1)
    hidden_size: int = Field(8, ge=2)
    fail_after: int | None = speed_only(None, ge=0)
    seconds_per_request: float = speed_only(0.0, ge=0)


@dataclass(frozen=True, slots=True)
class _Known:
    n_options: int
    answer_index: int | None
    reference: tuple[str, ...]


class FakeExpert:
    """Answers by hash of (name, prompt, seed, sample): equal inputs give equal answers.

    It remembers the gold answer of every question it has rendered, so that ``accuracy`` can
    be kept; a prompt it has not rendered is answered without that knowledge.
    """

    def __init__(self, config: ExpertConfig, states: StateConfig | None = None) -> None:
        self.config = config
        self._slots = 1 if states is None else states.slots
        self.options = parse(FakeOptions, config.engine_options, key="engine_options")
        self._known: dict[str, _Known] = {}
        self._beliefs: dict[str, float] = {}
        self._requests = 0

    @property
    def revision(self) -> str:
        """Hash of what decides the answers: the name and the accuracy."""
        return "fake:" + canonical_sha256([self.config.name, self.options.accuracy])[:16]

    def render(self, question: Question, max_tokens: int) -> Prompt:
        """Plain prompt of the recipe's template; a token is a word."""

        def wording(context: str) -> str:
            name, system = self.config.template, self.config.system
            return plain_prompt(name, question, context=context, system=system)

        return self._rendered(question, wording, self.config.max_model_len - max_tokens)

    def render_choices(self, question: Question) -> tuple[Prompt, tuple[str, ...]]:
        """Prompt and choices of the protocol ``lm_eval``."""
        prompt = self._rendered(
            question,
            lambda context: lm_eval_prompt(question, context),
            self.config.max_model_len - 1,
        )
        return prompt, lm_eval_choices(question)

    def _rendered(self, question: Question, wording: Any, budget: int) -> Prompt:
        fitted = fit_context(wording, question.context or "", _count_words, budget)
        prompt = Prompt(fitted.text, fitted.tokens, fitted.truncated_tokens, fitted.fits)
        reference = tuple((question.reference or "").split()[:_LONGEST_REFERENCE])
        options = len(question.options or ())
        self._known[prompt.sha256] = _Known(options, question.answer_index, reference)
        return prompt

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """Texts made of the question's own words; a letter for a multiple-choice question."""
        rows = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self._request()
            rows.append([self._complete(prompt, sampling, seed, k) for k in range(n)])
        return rows

    def _complete(self, prompt: Prompt, sampling: Sampling, seed: int, sample: int) -> Completion:
        greedy = sampling.temperature == 0
        draw = _Draw(self.config.name, prompt.text, *((0, 0) if greedy else (seed, sample)))
        known = self._known.get(prompt.sha256, _Known(0, None, ()))
        if known.n_options:
            words = [f"Answer: {ascii_uppercase[self._choice(draw, known)]}"]
        else:
            words = self._prose(draw, prompt.text, known)
        cut = words[: sampling.max_tokens]
        reason = "length" if len(cut) < len(words) else "stop"
        loss = -sum(0.1 + draw.uniform() for _ in cut)
        return Completion(" ".join(cut), reason, prompt.tokens, len(cut), loss)

    def _choice(self, draw: _Draw, known: _Known) -> int:
        """Right with probability ``accuracy``, else one of the others; by hash without it."""
        gold, accuracy = known.answer_index, self.options.accuracy
        if gold is None or accuracy is None:
            return draw.below(known.n_options)
        if draw.uniform() < accuracy:
            return gold
        return (gold + 1 + draw.below(known.n_options - 1)) % known.n_options

    def _prose(self, draw: _Draw, text: str, known: _Known) -> list[str]:
        own = [word.strip(".,:;?!()") for word in text.split()[-60:] if len(word) > 3] or [
            "unknown"
        ]
        accuracy = self.options.accuracy or 0.0
        words = []
        for position in range(12 + draw.below(30)):
            if known.reference and draw.uniform() < accuracy:
                words.append(known.reference[position % len(known.reference)])
            else:
                words.append(draw.pick(own if draw.below(3) else _FILLER))
        return [words[0].capitalize(), *words[1:-1], words[-1].rstrip(".") + "."]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Log-probabilities with the maximum at the option that ``generate`` would choose."""
        rows = []
        for prompt, options in zip(prompts, choices, strict=True):
            self._request()
            rows.append(ChoiceScores(self._scores(prompt, len(options)), prompt.tokens))
        return rows

    def _scores(self, prompt: Prompt, n: int) -> tuple[float, ...]:
        known = self._known.get(prompt.sha256, _Known(n, None, ()))
        draw = _Draw(self.config.name, prompt.text, 0, 0)
        best = self._choice(draw, _Known(n, known.answer_index, ()))
        weights = [2.0 if i == best else 0.1 + draw.uniform() for i in range(n)]
        return tuple(log(weight / sum(weights)) for weight in weights)

    def render_states(
        self, question: Question, *, option: int | None = None, answer: str | None = None
    ) -> Prompt:
        """Prompt and an option or an answer behind it."""
        prompt, choices = (
            self.render_choices(question)
            if question.options
            else (self.render(question, 1), tuple[str, ...]())
        )
        ending = choices[option] if option is not None else f" {answer}" if answer else ""
        whole = replace(
            prompt, text=prompt.text + ending, tokens=_count_words(prompt.text + ending)
        )
        if option is not None:
            scores = self._scores(prompt, len(choices))
            self._beliefs[whole.sha256] = 1.0 if scores[option] == max(scores) else -1.0
        return whole

    def hidden_states(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Noise in [-1, 1); the first number is 1 for the option that it believes in, else -1."""
        import numpy as np

        rows = []
        for prompt in prompts:
            self._request()
            draw = _Draw(self.config.name, prompt.text, "states")
            noise = [2 * draw.uniform() - 1 for _ in range(self.options.hidden_size)]
            noise[0] = self._beliefs.get(prompt.sha256, noise[0])
            rows.append(np.tile(np.array(noise, dtype=np.float32), (self._slots, 1)))
        return rows

    def _request(self) -> None:
        self._requests += 1
        limit = self.options.fail_after
        if limit is not None and self._requests > limit:
            problem = f"fake expert '{self.config.name}' failed after {limit} requests, as told"
            raise ExpertError(problem, fix="remove engine_options.fail_after")
        if self.options.seconds_per_request:
            time.sleep(self.options.seconds_per_request)

    def close(self) -> None:
        """Nothing to stop."""


class _Draw:
    """A stream of numbers that depends on its keys alone, on every machine and version."""

    def __init__(self, *keys: object) -> None:
        self._key = sha256(repr(keys).encode("utf-8", "backslashreplace")).digest()
        self._bytes = b""
        self._block = 0

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._next() / 2**32

    def below(self, n: int) -> int:
        """An integer in [0, n); 0 for n < 2."""
        return self._next() % n if n > 1 else 0

    def pick(self, items: Sequence[str]) -> str:
        """One of ``items``, which must not be empty."""
        return items[self.below(len(items))]

    def _next(self) -> int:
        if len(self._bytes) < 4:
            self._bytes = sha256(self._key + self._block.to_bytes(4, "big")).digest()
            self._block += 1
        value, self._bytes = int.from_bytes(self._bytes[:4], "big"), self._bytes[4:]
        return value


def _count_words(text: str) -> int:
    return len(text.split())
