"""The prompt of a fuser, for training and for inference alike.

Text of users and of experts is data: control marks in it are broken up with a blank
(:mod:`blender_med.prompts.marks`), and what does not fit is cut from it, never from the prompt's
own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from blender_med.errors import ConfigError
from blender_med.prompts.marks import mark_pattern, neutral_text
from blender_med.prompts.templates import end_of_turn
from blender_med.prompts.truncate import GAP

MAX_LENGTH = 1024
CANDIDATE_MAXLENGTH = 128
ELLIPSIS = "..."  # what llm-blender puts behind a candidate that it cuts

Ids = list[int]


@dataclass(frozen=True, slots=True)
class FusionPrompt:
    """A prompt, ready for the model.

    Attributes:
        text: What the model reads; the tokenizer adds no special tokens to it.
        ids: Its tokens.
        candidates: How many candidates it shows.
        truncated_tokens: Tokens of instruction, input and candidates that it leaves out.
    """

    text: str
    ids: tuple[int, ...]
    candidates: int
    truncated_tokens: int = 0


class Layout(Protocol):
    """How instruction, input and candidates are put into one text."""

    closing: str

    def render(self, instruction: str, input: str, candidates: Sequence[str]) -> str:
        """The prompt; its parts stand in it as they are."""
        ...


class Seq2SeqLayout:
    """Prompt of GenFuser for encoder-decoder models (LLM-Blender, gen_fuser).

        Instruction: {instruction}</s>Input: {input}</s>Candidate 0: <extra_id_0>:{candidate}</s>
        ...</s>Summarize candidates into a better one for the given instruction:

    Args:
        separator: The model's end-of-sequence token; ``</s>`` for T5 and BART.
    """

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self.closing = separator  # ends a target

    def render(self, instruction: str, input: str, candidates: Sequence[str]) -> str:
        """The prompt; its parts stand in it as they are."""
        parts = [f"Instruction: {instruction}", f"Input: {input}"]
        parts += [f"Candidate {i}: <extra_id_{i}>:{text}" for i, text in enumerate(candidates)]
        parts.append("Summarize candidates into a better one for the given instruction:")
        return self._separator.join(parts)


_TASK = (
    "Write one better answer from the candidates. State only what they support, leave out what "
    "is wrong, and reply with the answer alone."
)
_AGGREGATOR = (
    "You have been provided with a set of responses from various open-source models to the latest "
    "user query. Your task is to synthesize these responses into a single, high-quality response. "
    "It is crucial to critically evaluate the information provided in these responses, recognizing "
    "that some of it may be biased or incorrect. Your response should not simply replicate the "
    "given answers but should offer a refined, accurate, and comprehensive reply to the "
    "instruction. Ensure your response is well-structured, coherent, and adheres to the highest "
    "standards of accuracy and reliability.\n\nResponses from models:"
)

Turns = list[dict[str, str]]
Wording = Callable[[str, str, Sequence[str]], Turns]


def fusion_turns(instruction: str, input: str, candidates: Sequence[str]) -> Turns:
    """GenFuser's words for chat models: one user turn."""
    listed = [f"Candidate {i}:\n{text}" for i, text in enumerate(candidates, start=1)]
    question = "\n".join(part for part in (instruction, input) if part)
    content = "\n\n".join(part for part in (question, *listed, _TASK) if part)
    return [{"role": "user", "content": content}]


def aggregator_turns(instruction: str, input: str, candidates: Sequence[str]) -> Turns:
    """The aggregator prompt of Mixture-of-Agents (Wang et al. 2024, table 1)."""
    listed = [f"{i}. {text}" for i, text in enumerate(candidates, start=1)]
    question = "\n\n".join(part for part in (input, instruction) if part)
    system = {"role": "system", "content": "\n".join([_AGGREGATOR, *listed])}
    return [system, {"role": "user", "content": question}]


class ChatLayout:
    """Prompt for decoder-only models, by the model's chat template.

    A model without a chat template reads the same words, followed by ``Answer:``. A template that
    refuses the role ``system`` gets its words at the head of the user turn.

    Args:
        tokenizer: Hugging Face tokenizer.
        wording: The turns.
    """

    def __init__(self, tokenizer: Any, wording: Wording = fusion_turns) -> None:
        self._tokenizer = tokenizer
        self._wording = wording
        self.closing = end_of_turn(tokenizer) or tokenizer.eos_token or ""

    def render(self, instruction: str, input: str, candidates: Sequence[str]) -> str:
        """The prompt; its parts stand in it as they are."""
        turns = self._wording(instruction, input, candidates)
        joined = "\n\n".join(turn["content"] for turn in turns)
        if not self._tokenizer.chat_template:
            return f"{self._tokenizer.bos_token or ''}{joined}\n\nAnswer:"
        if len(turns) == 1:
            return self._templated(turns, reply=True)
        from jinja2.exceptions import TemplateError

        try:
            return self._templated(turns, reply=True)
        except TemplateError:  # Gemma and the first Mistral refuse the role 'system'
            return self._templated([{"role": "user", "content": joined}], reply=True)

    def _templated(self, turns: list[dict[str, str]], *, reply: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=reply
        )
        return text


class PromptFormatter:
    """Turns an instruction, an input and candidates into the tokens of a prompt.

    Every candidate is cut on the right to ``candidate_maxlength`` tokens. A prompt that is still
    longer than ``max_length`` gives one half of its room to instruction and input and the other
    to the candidates; what one half does not use, the other gets. Instruction and input are cut
    in the middle, candidates evenly on the right. (llm-blender cuts the end off, and with it the
    last candidates and the closing instruction.)

    Args:
        tokenizer: Hugging Face tokenizer of the model.
        layout: The prompt's words.
        max_length: Most tokens of a prompt.
        candidate_maxlength: Most tokens of a candidate.
        marks: What is broken up in texts; None: the tokenizer's special tokens and the marks of
            instruction templates.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: Layout,
        max_length: int = MAX_LENGTH,
        candidate_maxlength: int = CANDIDATE_MAXLENGTH,
        marks: re.Pattern[str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.layout = layout
        self.max_length = max_length
        self.candidate_maxlength = candidate_maxlength
        self._marks = marks or mark_pattern(_special_tokens(tokenizer))

    def encode(self, instruction: str, input: str, candidates: Sequence[str]) -> FusionPrompt:
        """The prompt; the arguments are left as they are.

        Raises:
            ConfigError: ``max_length`` has no room for the words of the prompt itself and one
                token of each part.
        """
        texts = [self.neutral(text) for text in (instruction, input, *candidates)]
        parts = self._all_ids(texts)
        limits = [len(parts[0]), len(parts[1])]
        limits += [min(len(ids), self.candidate_maxlength) for ids in parts[2:]]
        prompt = self._prompt(texts, parts, limits)
        if len(prompt.ids) > self.max_length:
            prompt = self._fitted(texts, parts, limits)
        return prompt

    def target_ids(self, text: str, max_length: int = CANDIDATE_MAXLENGTH) -> Ids:
        """Tokens that a model is trained to answer: ``text``, then the end of the turn.

        Args:
            text: The better answer.
            max_length: Most tokens, the end included; a longer text is cut and has no end.
        """
        return (self._ids(self.neutral(text)) + self.closing_ids)[:max_length]

    @cached_property
    def closing_ids(self) -> Ids:
        """Tokens that end an answer; the first one stops the generation.

        A mark that the tokenizer cuts into pieces would stop it at ordinary characters: there the
        end-of-sequence token ends an answer.
        """
        ids = self._ids(self.layout.closing) if self.layout.closing else []
        whole = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        if not ids or len(ids) == 1 or ids[0] in whole:
            return ids
        end = self.tokenizer.eos_token_id
        return [] if end is None else [end]

    def neutral(self, text: str) -> str:
        """``text`` without a mark that the tokenizer would take for its own."""
        return neutral_text(text, self._marks)

    def _fitted(
        self, texts: Sequence[str], parts: Sequence[Ids], limits: Sequence[int]
    ) -> FusionPrompt:
        frame = len(self._ids(self.layout.render("", "", [""] * (len(parts) - 2))))
        room = self.max_length - frame
        while room >= len(parts):
            prompt = self._prompt(texts, parts, _shares(limits, room))
            if len(prompt.ids) <= self.max_length:
                return prompt
            room -= len(prompt.ids) - self.max_length
        problem = f"{len(parts) - 2} candidates need more than {frame + len(parts)} tokens"
        fix = "raise max_length, or fuse fewer candidates"
        raise ConfigError(problem, key="max_length", value=self.max_length, fix=fix)

    def _prompt(
        self, texts: Sequence[str], parts: Sequence[Ids], limits: Sequence[int]
    ) -> FusionPrompt:
        instruction, input = (
            self._middle_cut(texts[i], parts[i], limits[i]) for i in range(2)
        )  # fmt: skip
        candidates = [
            self._right_cut(text, ids, limit)
            for text, ids, limit in zip(texts[2:], parts[2:], limits[2:], strict=True)
        ]
        text = self.layout.render(instruction, input, candidates)
        lost = sum(max(0, len(ids) - limit) for ids, limit in zip(parts, limits, strict=True))
        return FusionPrompt(text, tuple(self._ids(text)), len(candidates), lost)

    def _right_cut(self, text: str, ids: Ids, limit: int) -> str:
        return text if len(ids) <= limit else self.tokenizer.decode(ids[:limit]) + ELLIPSIS

    def _middle_cut(self, text: str, ids: Ids, limit: int) -> str:
        if len(ids) <= limit:
            return text
        head, tail = ids[: (limit + 1) // 2], ids[len(ids) - limit // 2 :]
        return f"{self.tokenizer.decode(head)}{GAP}{self.tokenizer.decode(tail)}"

    def _ids(self, text: str) -> Ids:
        return self._all_ids([text])[0]

    def _all_ids(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """Tokens that each part may keep: source and candidates first halve the room."""
    source, candidates = _capped([sum(lengths[:2]), sum(lengths[2:])], room)
    return [*_capped(lengths[:2], source), *_capped(lengths[2:], candidates)]


def _capped(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths cut to one common cap, the largest whose sum fits; the rest goes unused."""
    cap, left = 0, room
    for place, length in enumerate(sorted(lengths)):
        cap = left // (len(lengths) - place)
        if length > cap:
            break
        left -= length
        cap = max(lengths)
    return [min(length, cap) for length in lengths]


def _special_tokens(tokenizer: Any) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
