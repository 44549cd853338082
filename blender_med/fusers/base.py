"""What a text fuser takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Literal, Protocol

from blender_med.errors import DataError
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import FusionPrompt

Advance = Callable[[int], None]
Outcome = Literal["fused", "empty_generation", "no_candidate_text"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """A fused answer and how it came about.

    Attributes:
        text: The answer.
        outcome: ``fused``: the model's text. ``empty_generation``: the model wrote nothing, and
            ``text`` is the first candidate that is not blank. ``no_candidate_text``: all
            candidates are blank, the model was not asked, and ``text`` is empty.
        candidates: Candidates that the prompt showed.
        prompt_tokens: Length of the prompt.
        truncated_tokens: Tokens of instruction, input and candidates that did not fit into it.
        completion_tokens: Tokens that the model wrote, its end token included.
        finish_reason: ``stop`` or ``length``; empty where the model was not asked.
        seconds: Of the model, where the engine tells them.
    """

    text: str
    outcome: Outcome
    candidates: int
    prompt_tokens: int = 0
    truncated_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote behind a prompt; ``seconds`` where the engine tells them."""

    text: str
    completion_tokens: int
    finish_reason: str
    seconds: float | None = None


class Fuser(Protocol):
    """Makes one answer of the candidates of each question."""

    def fusions(
        self,
        instructions: Sequence[str],
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        top_k: int,
        decoding: Decoding | None = None,
        advance: Advance | None = None,
    ) -> list[Fusion]:
        """A record for each question, in order; see ``GenFuser.fusions``."""
        ...


class FusionEngine(Protocol):
    """Runs the model of a fuser.

    ``generation.TransformersEngine`` is one; a stage that holds a vLLM engine hands in its own.
    """

    def generate(
        self,
        prompts: Sequence[FusionPrompt],
        decoding: Decoding,
        *,
        advance: Advance | None = None,
    ) -> list[Generation]:
        """One text for each prompt, in their order; ``advance(n)`` reports n prompts done.

        ``prompt.text`` is complete: no special tokens are added to it.
        """
        ...


def check_fusion_input(
    instructions: Sequence[str], inputs: Sequence[str], candidates: Sequence[Sequence[str]]
) -> None:
    """Check what is to be fused.

    Raises:
        DataError: The three differ in length, a question has no candidate, or a text is no
            string.
    """
    if not len(instructions) == len(inputs) == len(candidates):
        problem = (
            f"{len(instructions)} instructions, {len(inputs)} inputs and {len(candidates)} lists "
            "of candidates"
        )
        raise DataError(problem, fix="give one of each for every question")
    rows = zip(instructions, inputs, candidates, strict=True)
    for row, (instruction, input, group) in enumerate(rows, start=1):
        if isinstance(group, str) or not isinstance(group, Sized) or not len(group):
            fix = "give a list with at least one candidate, or leave the question out"
            raise DataError("no candidate to fuse", row=row, value=group, fix=fix)
        texts: tuple[object, ...] = (instruction, input, *group)
        for text in texts:
            if not isinstance(text, str):
                fix = "replace a missing text by an empty string"
                raise DataError("a text is no string", row=row, value=text, fix=fix)
