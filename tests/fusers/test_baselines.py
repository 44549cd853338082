"""Baselines of fusing, and the prompts that experts and servers get."""

from __future__ import annotations

import json

import pytest

from blender_med.errors import DataError
from blender_med.fusers.base import Fusion
from blender_med.fusers.baselines import Concatenation, TwoRounds
from blender_med.fusers.faithfulness import CheckedSentence, Flag, Link
from blender_med.fusers.prompts import ChatLayout, PromptFormatter, aggregator_turns, fusion_turns
from blender_med.fusers.servers import MessagesLayout, WordTokenizer
from blender_med.fusers.support import read_support, support_json
from blender_med.prompts.marks import SERVER_MARKS


class Recorder:
    """Answers with the first letters of the candidates, in the order in which they stand."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def fusions(self, instructions, inputs, candidates, *, top_k, decoding=None, advance=None):
        self.read += [list(group) for group in candidates]
        if advance is not None:
            advance(len(candidates))
        return [
            Fusion("".join(text[0] for text in group), "fused", len(group), 10, 1, 2, "stop", 0.5)
            for group in candidates
        ]


def test_concatenation_joins_the_first_texts() -> None:
    done: list[int] = []
    one, two = Concatenation().fusions(
        ["", ""], ["q", "q"], [["a.", "b.", "c."], [" "]], top_k=2, advance=done.append
    )
    assert (one.text, one.outcome, one.candidates) == ("a.\n\nb.", "fused", 2)
    assert (two.text, two.outcome) == ("", "no_candidate_text")
    assert (one.prompt_tokens, done) == (0, [2])
    with pytest.raises(DataError, match="no candidate to fuse"):
        Concatenation().fusions([""], ["q"], [[]], top_k=2)


def test_two_rounds_draft_with_every_candidate_first() -> None:
    fuser = Recorder()
    [fusion] = TwoRounds(fuser).fusions([""], ["q"], [["a", "b", "c", "d"]], top_k=3)
    assert fuser.read == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"],
        ["abc", "bca", "cab"],
    ]  # fmt: skip
    assert fusion.text == "abc"
    # Four prompts in all.
    assert (fusion.prompt_tokens, fusion.truncated_tokens, fusion.completion_tokens) == (40, 4, 8)
    assert (fusion.candidates, fusion.seconds) == (3, 2.0)


def test_two_rounds_report_questions_as_texts_are_done() -> None:
    done: list[int] = []
    groups = [["a", "b", "c"], ["a"]]
    TwoRounds(Recorder()).fusions(["", ""], ["q", "q"], groups, top_k=3, advance=done.append)
    assert done == [1, 1]  # four drafts of six texts, then two


def test_equal_drafts_count_once() -> None:
    fuser = Recorder()
    TwoRounds(fuser).fusions([""], ["q"], [["a1", "a2"]], top_k=3)
    assert fuser.read[-1] == ["aa"]


def test_the_aggregator_gets_the_candidates_in_its_system_turn(chat_tokenizer) -> None:
    text = ChatLayout(chat_tokenizer, aggregator_turns).render("What is gout?", "", ["A.", "B."])
    system, user = text.split("<|im_end|>\n")[:2]
    assert system.startswith("<|im_start|>system\nYou have been provided with a set of responses")
    assert system.endswith("Responses from models:\n1. A.\n2. B.")
    assert user == "<|im_start|>user\nWhat is gout?"


def test_a_template_without_system_turns_gets_one_user_turn(chat_tokenizer) -> None:
    import copy

    strict = copy.deepcopy(chat_tokenizer)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + chat_tokenizer.chat_template
    )
    text = ChatLayout(strict, aggregator_turns).render("What is gout?", "", ["A."])
    assert text.startswith("<|im_start|>user\nYou have been provided")
    assert "1. A.\n\nWhat is gout?<|im_end|>" in text


def test_words_stand_for_tokens_where_there_is_no_tokenizer() -> None:
    tokenizer = WordTokenizer()
    text = "  Gout is\ta form \n of arthritis. "
    [ids] = tokenizer([text])["input_ids"]
    assert len(ids) == 7  # six words and the blank behind them
    assert tokenizer.decode(ids) == text


def test_a_server_gets_messages_that_fit() -> None:
    formatter = PromptFormatter(WordTokenizer(), MessagesLayout(fusion_turns), 60, 4, SERVER_MARKS)
    prompt = formatter.encode("What is gout?", "", ["one two three four five <|im_end|>", "b"])
    [message] = json.loads(prompt.text)
    assert message["role"] == "user"
    assert "Candidate 1:\none two three four...\n\nCandidate 2:\nb" in message["content"]
    assert "<|im_end|>" not in prompt.text
    assert len(prompt.ids) <= 60 and prompt.truncated_tokens == 3


def test_support_survives_as_text() -> None:
    checked = [
        CheckedSentence("A.", (Link(1, 0, 0.9, 0.5),), ()),
        CheckedSentence("B 5 mg.", (), (Flag("dose", "absent", "5 mg"),)),
    ]
    one, two = read_support(support_json(checked, ["x#0", "y#0"]))
    assert (one.text, one.flags) == ("A.", ())
    assert one.links == (("y#0", 1, 0.82),)  # 0.8 x 0.9 + 0.2 x 0.5
    assert (two.links, two.flags) == ((), (("dose", "absent", "5 mg"),))
    assert read_support(support_json([], [])) == []
