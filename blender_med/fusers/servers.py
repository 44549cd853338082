"""Prompts for a model whose tokenizer is not here: a server that applies its own chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from blender_med.fusers.prompts import Wording

_WORD = re.compile(r"\s*\S+|\s+$")


class WordTokenizer:
    """Stands in for a Hugging Face tokenizer where only lengths matter: a token is a word."""

    chat_template = None
    bos_token = None
    eos_token = None

    def __init__(self) -> None:
        self.all_special_tokens: list[str] = []
        self.added_tokens_decoder: dict[int, Any] = {}
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def __call__(self, texts: Sequence[str], **settings: Any) -> dict[str, list[list[int]]]:
        """Numbers of the words of each text; ``settings`` change nothing."""
        return {"input_ids": [[self._id(word) for word in _WORD.findall(t)] for t in texts]}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the words."""
        return "".join(self._words[i] for i in ids)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


class MessagesLayout:
    """The turns as JSON, as servers of chat models take them.

    Args:
        wording: The turns.
    """

    closing = ""

    def __init__(self, wording: Wording) -> None:
        self._wording = wording

    def render(self, instruction: str, input: str, candidates: Sequence[str]) -> str:
        """The prompt; its parts stand in it as they are."""
        return json.dumps(self._wording(instruction, input, candidates), ensure_ascii=False)
