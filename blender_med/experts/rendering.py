"""Questions to prompts with a tokenizer: chat template or plain template, made to fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from blender_med.data.continuation import is_continuation
from blender_med.errors import ConfigError
from blender_med.experts.base import Prompt
from blender_med.experts.config import ExpertConfig
from blender_med.prompts.marks import mark_pattern, neutral_question, neutral_text
from blender_med.prompts.protocols import lm_eval_choices, lm_eval_prompt, lm_eval_statement
from blender_med.prompts.templates import answer_text, chat_messages, end_of_turn, plain_prompt
from blender_med.prompts.truncate import fit_context
from blender_med.records import Question


class Renderer:
    """Prompts of one expert.

    Text of a question is data: special tokens and instruction marks in it are broken up with
    a blank after their first character, so that they reach the model as ordinary text.

    Args:
        config: The recipe.
        tokenizer: Hugging Face tokenizer of the expert.

    Raises:
        ConfigError: ``chat: true`` and the tokenizer has no chat template.
    """

    def __init__(self, config: ExpertConfig, tokenizer: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self._chat = bool(template) if config.chat is None else config.chat
        if self._chat and not template:
            fix = "set 'chat: false' and name a plain 'template'"
            raise ConfigError("the tokenizer has no chat template", key="chat", value=True, fix=fix)
        self._marks = mark_pattern(_special_tokens(tokenizer))

    def render(self, question: Question, max_tokens: int) -> Prompt:
        """Prompt for a generated answer that leaves room for ``max_tokens``.

        Raises:
            ConfigError: ``max_tokens`` leaves no room at all.
        """
        budget = self._config.max_model_len - max_tokens
        if budget < 1:
            problem = (
                f"max_tokens leaves no room for a prompt in {self._config.max_model_len} tokens"
            )
            fix = "lower sampling.max_tokens or raise the expert's max_model_len"
            raise ConfigError(problem, key="sampling.max_tokens", value=max_tokens, fix=fix)
        safe = neutral_question(question, self._marks)
        wording = self._chat_text if self._chat else self._plain_text
        return self._fitted(
            safe, lambda context: wording(safe, context), budget, add_special_tokens=not self._chat
        )

    def render_choices(self, question: Question) -> tuple[Prompt, tuple[str, ...]]:
        """Prompt and choices of the protocol ``lm_eval``, which never uses a chat template."""
        safe = neutral_question(question, self._marks)
        choices = lm_eval_choices(safe)
        longest = max(len(self._tokenizer.encode(c, add_special_tokens=False)) for c in choices)
        budget = self._config.max_model_len - longest - 1
        prompt = self._fitted(
            safe, lambda context: lm_eval_prompt(safe, context), budget, add_special_tokens=True
        )
        return prompt, choices

    def render_states(
        self, question: Question, *, option: int | None = None, answer: str | None = None
    ) -> Prompt:
        """Text whose hidden states stand for a question.

        A multiple-choice question reads as in the protocol ``lm_eval``, the beginning of a
        passage as it stands, any other as the expert is asked it. One of the options, or an
        answer, stands behind it.

        Args:
            question: The question.
            option: Index of the option.
            answer: Text of the answer.
        """
        safe = neutral_question(question, self._marks)
        chat = self._chat and safe.task == "long" and not is_continuation(safe)
        ending = "" if option is None else lm_eval_statement(safe, option)
        if answer is not None:
            ending = ("" if chat else " ") + neutral_text(answer, self._marks).strip()
        return self._fitted(
            safe,
            lambda context: self._asked(safe, context) + ending,
            state_budget(self._config),
            add_special_tokens=not chat,
        )

    def _asked(self, question: Question, context: str) -> str:
        if question.task == "mcq":
            return lm_eval_prompt(question, context)
        if is_continuation(question):
            return question.question
        wording = self._chat_text if self._chat else self._plain_text
        return wording(question, context)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids that the model reads."""
        return self._ids(prompt.text, prompt.add_special_tokens)

    def encode_target(self, question: Question, prompt: Prompt) -> list[int]:
        """Token ids that a model is trained to write behind a prompt of :meth:`render`.

        The end of the answer comes last: of the turn, or without a chat template of the text.

        Raises:
            ValueError: The question has no answer.
        """
        answer = answer_text(question)
        if answer is None:
            raise ValueError(f"question {question.id} has no answer")
        text = neutral_text(answer, self._marks).strip()
        blank = "" if prompt.text[-1:].isspace() else " "
        return self._behind(prompt, blank + text) + self._closing

    def encode_right_choice(self, question: Question) -> tuple[list[int], list[int]]:
        """Token ids of the prompt of protocol ``lm_eval`` and of the right choice with its end."""
        prompt, choices = self.render_choices(question)
        ids, encoded = self.encode_choices(prompt, choices)
        return ids, encoded[int(str(question.answer_index))] + self._closing

    def _behind(self, prompt: Prompt, text: str) -> list[int]:
        """Tokens of ``text`` as they stand behind a prompt, whose own tokens stay as they are."""
        ids, whole = self.encode(prompt), self._ids(prompt.text + text, prompt.add_special_tokens)
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
        return self._ids(text, False)

    @cached_property
    def _closing(self) -> list[int]:
        end = end_of_turn(self._tokenizer) if self._chat else ""
        return self._ids(end or self._tokenizer.eos_token or "", False)

    def encode_choices(
        self, prompt: Prompt, choices: tuple[str, ...]
    ) -> tuple[list[int], list[list[int]]]:
        """Token ids of the prompt and of each choice after it.

        As lm-evaluation-harness does it: prompt and choice are tokenised together, what lies
        behind the prompt's own length is the choice; blanks that end the prompt go with it.
        """
        text = prompt.text.rstrip(" ")
        blanks = prompt.text[len(text) :]
        ids = self._ids(text, prompt.add_special_tokens)
        whole = [self._ids(text + blanks + choice, prompt.add_special_tokens) for choice in choices]
        return ids, [both[len(ids) :] for both in whole]

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def _fitted(
        self,
        question: Question,
        wording: Callable[[str], str],
        budget: int,
        *,
        add_special_tokens: bool,
    ) -> Prompt:
        def count(text: str) -> int:
            return len(self._ids(text, add_special_tokens))

        fitted = fit_context(wording, question.context or "", count, budget)
        return Prompt(
            fitted.text, fitted.tokens, fitted.truncated_tokens, fitted.fits, add_special_tokens
        )

    def _plain_text(self, question: Question, context: str) -> str:
        name, system = self._config.template, self._config.system
        return plain_prompt(name, question, context=context, system=system)

    def _chat_text(self, question: Question, context: str) -> str:
        from jinja2.exceptions import TemplateError

        messages = chat_messages(question, context=context, system=self._config.system)
        try:
            return self._templated(messages)
        except TemplateError:  # Gemma and the first Mistral refuse the role 'system'
            first, *rest = messages
            joined = f"{first['content']}\n\n{rest[0]['content']}" if rest else first["content"]
            return self._templated([{"role": "user", "content": joined}])

    def _templated(self, messages: list[dict[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text


def state_budget(config: ExpertConfig) -> int:
    """Most tokens of a text whose hidden states are read."""
    return config.max_model_len - 1


def _special_tokens(tokenizer: Any) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
