"""Plain templates for models without a chat template, and chat messages for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from blender_med.prompts.protocols import is_yes_no_maybe, lettered, required_options
from blender_med.records import Question
from blender_med.registry import Registry

_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
_LONG = "Answer the medical question."
_PROBE = "PROBE"


@dataclass(frozen=True, slots=True)
class Template:
    """Wording of a plain prompt.

    Attributes:
        long: Format of a prompt for a prose answer.
        mcq: Format of a prompt for a choice. Both may use ``{system}``, ``{context}``,
            ``{question}``, ``{options}``, ``{instruction}`` and ``{task}``, the whole task in
            the words that a chat model gets.
    """

    long: str
    mcq: str


_TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        "qa": Template(
            long="{system}{context}Question: {question}\nAnswer:",
            mcq="{system}{context}Question: {question}\n{options}\n{instruction}\nAnswer:",
        ),
        "alpaca": Template(
            long="{preamble}\n\n### Instruction:\n{instruction}\n\n### Input:\n{context}{question}"
            "\n\n### Response:\n",
            mcq="{preamble}\n\n### Instruction:\n{instruction}\n\n### Input:\n{context}{question}"
            "\n{options}\n\n### Response:\n",
        ),
        "biogpt": Template(
            long="{system}question: {question}{biogpt_context} answer:",
            mcq="{system}question: {question}{biogpt_options}{biogpt_context}"
            " the answer to the question{biogpt_given} is",
        ),
        "instruct": Template(
            long="[INST] {system}{task} [/INST]", mcq="[INST] {system}{task} [/INST]"
        ),
    }
)

TEMPLATES = Registry("prompt template", dict.fromkeys(_TEMPLATES, ""))


def plain_prompt(
    name: str, question: Question, *, context: str | None = None, system: str | None = None
) -> str:
    """Prompt of a question by the plain template ``name``.

    Args:
        name: ``qa``; ``alpaca`` (MedAlpaca's wording); ``biogpt`` (the source format of BioGPT's
            fine-tuning, data set PubMedQA); ``instruct`` (Mistral and Llama 2 instruction marks).
        question: Long-form or multiple-choice.
        context: Replaces ``question.context``; None keeps it, an empty text leaves it out.
        system: Text put first; None for none.

    Raises:
        ConfigError: No template has this name.
        DataError: A multiple-choice question without options.
    """
    template = _TEMPLATES[TEMPLATES.check(name, key="template")]
    wording = template.mcq if question.task == "mcq" else template.long
    context = question.context if context is None else context
    return wording.format_map(_Fields(question, context or "", system or ""))


class _Fields(dict[str, str]):
    """Values of the template fields, each made when a template asks for it."""

    def __init__(self, question: Question, context: str, system: str) -> None:
        self._makers: dict[str, Callable[[], str]] = {
            "preamble": lambda: system or _ALPACA,
            "system": lambda: f"{system}\n\n" if system else "",
            "context": lambda: f"{context}\n\n" if context else "",
            "question": lambda: question.question,
            "options": lambda: lettered(required_options(question)),
            "instruction": lambda: _instruction(question),
            "task": lambda: _task(question, context),
            "biogpt_context": lambda: f" context: {context}" if context else "",
            "biogpt_given": lambda: " given the context" if context else "",
            "biogpt_options": lambda: _biogpt_options(question),
        }

    def __missing__(self, key: str) -> str:
        return self._makers[key]()


def chat_messages(
    question: Question, *, context: str | None = None, system: str | None = None
) -> list[dict[str, str]]:
    """Messages of a question for a model with a chat template.

    Args:
        question: Long-form or multiple-choice.
        context: Replaces ``question.context``; None keeps it, an empty text leaves it out.
        system: System message; None for none.

    Raises:
        DataError: A multiple-choice question without options.
    """
    context = question.context if context is None else context
    user = {"role": "user", "content": _task(question, context or "")}
    return ([{"role": "system", "content": system}] if system else []) + [user]


def answer_text(question: Question) -> str | None:
    """What a model is trained to answer: the reference, or the right option; None without one."""
    if question.task == "long":
        return question.reference or None
    if question.answer_index is None:
        return None
    options = required_options(question)
    listed = options if is_yes_no_maybe(options) else lettered(options).splitlines()
    return listed[question.answer_index]


def end_of_turn(tokenizer: Any) -> str:
    """What a chat template writes behind an answer, up to the line's end; empty without one."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    return text.rpartition(_PROBE)[2].strip()


def _task(question: Question, context: str) -> str:
    before = f"{context}\n\n" if context else ""
    if question.task == "long":
        return f"{before}{question.question}"
    options = lettered(required_options(question))
    return f"{before}{question.question}\n\n{options}\n\n{_instruction(question)}"


def _instruction(question: Question) -> str:
    if question.task == "long":
        return _LONG
    options = required_options(question)
    if is_yes_no_maybe(options):
        words = ", ".join(options[:-1]) + f" or {options[-1]}"
        return f"Answer with one word: {words}."
    return "Answer with the letter of the best option."


def _biogpt_options(question: Question) -> str:
    options = required_options(question)
    return "" if is_yes_no_maybe(options) else " " + " ".join(lettered(options).splitlines())
