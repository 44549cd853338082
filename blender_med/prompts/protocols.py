"""The log-likelihood protocol ``lm_eval``: exactly the prompts of lm-evaluation-harness.

Zero-shot, no description. The score of a choice is the summed log-likelihood of
``" " + choice`` after the prompt; the answer is the argmax. Source: the tasks
``medqa_4options``, ``medmcqa``, ``pubmedqa`` and ``mmlu`` of lm-evaluation-harness 0.4.
"""

from __future__ import annotations

from string import ascii_uppercase

from blender_med.errors import DataError
from blender_med.records import Question

_YES_NO_MAYBE = ("yes", "no", "maybe")


def lm_eval_prompt(question: Question, context: str | None = None) -> str:
    """Prompt of one multiple-choice question; ``question.dataset`` picks the task.

    Args:
        question: A question with options. ``medqa``, ``medmcqa`` and ``pubmedqa`` have their
            own wording, every other data set has that of MMLU.
        context: Replaces ``question.context`` (a shortened one); None keeps it.

    Raises:
        DataError: The question has no options, or more than the alphabet has letters.
    """
    options = required_options(question)
    context = question.context if context is None else context
    if question.dataset == "pubmedqa":
        return f"Abstract: {context or ''}\nQuestion: {question.question}\nAnswer:"
    lines = lettered(options)
    if question.dataset == "medmcqa":
        return f"Question: {question.question}\nChoices:\n{lines}\nAnswer:"
    if question.dataset == "medqa":
        return f"Question: {question.question}\n{lines}\nAnswer:"
    before = f"{context}\n" if context else ""
    return f"{before}{question.question}\n{lines}\nAnswer:"


def lm_eval_choices(question: Question) -> tuple[str, ...]:
    """What is scored after the prompt, in the order of the options; each starts with a blank.

    Letters, except where the prompt shows no lettered options (PubMedQA): there the words.

    Raises:
        DataError: The question has no options.
    """
    options = required_options(question)
    if question.dataset == "pubmedqa":
        return tuple(f" {option}" for option in options)
    return tuple(f" {letter}" for letter in ascii_uppercase[: len(options)])


def lm_eval_statement(question: Question, option: int) -> str:
    """An option written out behind the prompt: its letter where it has one, and its text.

    Raises:
        DataError: The question has no options.
    """
    text = required_options(question)[option]
    choice = lm_eval_choices(question)[option]
    return choice if question.dataset == "pubmedqa" else f"{choice}. {text}"


def is_yes_no_maybe(options: tuple[str, ...]) -> bool:
    """Whether the options are the words yes, no and maybe (any order, case or subset of two)."""
    words = [option.strip().lower() for option in options]
    return len(words) >= 2 and set(words) <= set(_YES_NO_MAYBE)


def lettered(options: tuple[str, ...]) -> str:
    """Options one a line, as ``A. text``."""
    pairs = zip(ascii_uppercase, options, strict=False)
    return "\n".join(f"{letter}. {option}" for letter, option in pairs)


def required_options(question: Question) -> tuple[str, ...]:
    """The options of a multiple-choice question.

    Raises:
        DataError: It has fewer than two, or more than 26.
    """
    options = question.options or ()
    if not 2 <= len(options) <= len(ascii_uppercase):
        problem = f"question {question.id} needs 2 to 26 options for a choice"
        fix = "remove the question or give its options"
        raise DataError(problem, value=options, fix=fix)
    return options
