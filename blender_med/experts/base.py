"""What every expert engine offers to the stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from blender_med.experts.config import ExpertConfig, Sampling
from blender_med.records import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt, ready for the engine.

    Attributes:
        text: Exactly what the model reads (for a server that applies its own chat template:
            the messages as JSON).
        tokens: Its length in tokens of the expert's tokenizer; 0 where unknown (server).
        truncated_tokens: Tokens of context that were cut to make it fit.
        fits: False when not even question and options fit; the engine is not asked then.
        add_special_tokens: Whether the tokenizer puts its own marks (BOS) around the text; a
            chat template has written them already.
        stop_token_ids: Tokens that end the answer beside those that the model names; a server
            is not told of them.
    """

    text: str
    tokens: int = 0
    truncated_tokens: int = 0
    fits: bool = True
    add_special_tokens: bool = True
    stop_token_ids: tuple[int, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the text, as stored with every candidate."""
        return sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated text. ``logprob_sum`` is in nats, over the generated tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprob_sum: float | None = None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Summed log-likelihood in nats of each choice after a prompt; [n_choices]."""

    logprobs: tuple[float, ...]
    prompt_tokens: int


def checked_completion(made: Completion) -> Completion:
    """``made``, where it is what it should be.

    Raises:
        ValueError: A field is of another type, a count negative, or the sum no number.
    """
    if not isinstance(made, Completion) or not isinstance(made.text, str):
        raise ValueError("not a text")
    if not isinstance(made.finish_reason, str):
        raise ValueError("the finish reason is no text")
    for count in (made.prompt_tokens, made.completion_tokens):
        if type(count) is not int or not 0 <= count < 2**31:
            raise ValueError("not a number of tokens")
    if made.logprob_sum is not None:
        finite(made.logprob_sum)
    return made


def finite(value: object) -> float:
    """A log-probability as a number.

    Raises:
        ValueError: It is none, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a log-probability is no finite number")
    return float(value)


class Expert(Protocol):
    """A language model that answers questions.

    Rendering and the revision need the tokenizer and the files at most; the engine starts on
    the first call of ``generate`` or ``choice_logprobs`` and stops with ``close``.
    """

    config: ExpertConfig

    @property
    def revision(self) -> str:
        """Identity of the weights: changes whenever the model could answer differently."""
        ...

    def render(self, question: Question, max_tokens: int) -> Prompt:
        """Prompt for a generated answer that leaves room for ``max_tokens``."""
        ...

    def render_choices(self, question: Question) -> tuple[Prompt, tuple[str, ...]]:
        """Prompt and choices of the log-likelihood protocol ``lm_eval`` (EVALUATION)."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """``n`` completions for each prompt, [n_prompts][n]; ``seeds`` has one per prompt.

        Raises:
            ExpertError: The engine cannot be started, died, or refuses the settings.
        """
        ...

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Log-likelihood of each choice (each starts with its own blank) after each prompt."""
        ...

    def close(self) -> None:
        """Stop the engine and give its memory back; may be called twice."""
        ...


class StateExpert(Protocol):
    """A language model that gives the hidden states of texts; see :class:`Expert`."""

    config: ExpertConfig

    @property
    def revision(self) -> str:
        """Identity of the weights."""
        ...

    def render_states(
        self, question: Question, *, option: int | None = None, answer: str | None = None
    ) -> Prompt:
        """Text whose hidden states stand for a question, with one of its options or an answer."""
        ...

    def hidden_states(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Hidden states of each text, [slots, width]; of a text too long its end is read.

        Raises:
            ExpertError: The engine cannot be started, died, or has no such layer.
        """
        ...

    def close(self) -> None:
        """Stop the engine and give its memory back; may be called twice."""
        ...
