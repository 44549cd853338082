from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_med.prompts import parse_choice, parse_choice_mirage

OPTIONS = ("Aspirin", "Lung cancer", "Small cell lung cancer", "Vitamin C")
WORDS = ("yes", "no", "maybe")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b", 1),
        (" B. ", 1),
        ("B)", 1),
        ("(B)", 1),
        ("[B]", 1),
        ("**B**", 1),
        ("**B.** Lung cancer", 1),
        ("B. Lung cancer", 1),
        ("B: because it is", 1),
        ("Answer: B", 1),
        ("Answer: (B) Lung cancer", 1),
        ("**Answer:** B", 1),
        ("answer - d", 3),
        ("The answer is B.", 1),
        ("The correct answer is **(B)**.", 1),
        ("The best answer is option B", 1),
        ("The correct option is C, since the others are wrong.", 2),
        ("the answer to the question given the context is D.", 3),
        ("I would choose option C here.", 2),
        ("After thinking, (D) fits best.", 3),
        ('{"step_by_step_thinking": "A and B are wrong", "answer_choice": "D"}', 3),
        ("{'answer_choice': 'B. Lung cancer'}", 1),
        ('{"answer": "aspirin"}', 0),
        ("Aspirin", 0),
        ("aspirin.", 0),
        ("It must be vitamin C", 3),
        ("The answer is aspirin.", 0),
        ("Small cell lung cancer", 2),
        ("The answer is A because it thins the blood", 0),
        ("The answer is B. The answer is C. Final answer: D", 3),
        ("\uff22", 1),
        ("\\boxed{B}", 1),
        ("B or C", None),
        ("A, B and D", None),
        ("Both A/B", None),
        ("", None),
        ("   ", None),
        ("I do not know.", None),
        ("The answer is a virus of some kind", None),
        ("A good question. I cannot say.", None),
        ("The answer is B or C.", None),
        ("Options: (A) or (B)", None),
        ("A. Aspirin\nB. Lung cancer\nC. Small cell lung cancer\nD. Vitamin C", None),
        ("Aspirin and vitamin C", None),
        ("The answer is Z.", None),
        ("E", None),
        ("Option B is correct.", 1),
        ("B is the correct answer.", 1),
        ("So, D is the most likely cause.", 3),
        ("A is incorrect. B is incorrect. C is wrong. D is correct.", 3),
        ("A is true, and B is true.", None),
        ("D is likely wrong", None),
        ("I think it's B", 1),
        ("I would choose D.", 3),
        ("A and B can be excluded, leaving C.", 2),
        ("Ans: B", 1),
        ("Ans. (b)", 1),
        ("Answer A", 0),
        ("Answer A patient with care", None),
        ("The answer is definitely B.", 1),
        ("The answer is most likely (C)", 2),
        ("The answer is not A", None),
        ("The answer is not aspirin.", None),
        ("Aspirin is not correct.", None),
        ("It is lung cancer rather than aspirin", 1),
        ("Not aspirin, but vitamin C: aspirin is wrong", 3),
        ("Hepatitis B is the right diagnosis.", None),
        ("A\nB\nC\nD", None),
        ("B\n\nA. Aspirin is wrong.\nC. Small cell is wrong.", 1),
        ("Option C: this one\nA: no\nB: no", 2),
        ("Answer: C. A, B and D are wrong.", 2),
        ("The answer is C, not D.", 2),
    ],
)
def test_letters_and_option_texts(text: str, index: int | None) -> None:
    assert parse_choice(text, OPTIONS) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("yes", 0),
        ("Yes, it does.", 0),
        ("No.", 1),
        ("the answer to the question given the context is maybe.", 2),
        ("Answer: no", 1),
        ("yes and no", None),
        ("Nothing is known", None),
        ("There is no doubt that it works.", None),
        ("It is not clear; maybe.", 2),
        ("Yes/No", None),
        ("Maybe or no", None),
        ("No significant difference was found.", 1),
    ],
)
def test_yes_no_maybe(text: str, index: int | None) -> None:
    assert parse_choice(text, WORDS) == index


def test_no_options_gives_none() -> None:
    assert parse_choice("B", ()) is None


def test_equal_options_are_not_guessed() -> None:
    assert parse_choice("same", ("same", "same")) is None


def test_mirage_falls_back_to_the_first_option() -> None:
    assert parse_choice_mirage("no idea", OPTIONS) == 0
    assert parse_choice_mirage('{"thinking": "x", "answer_choice": "C"}', OPTIONS) == 2
    assert parse_choice_mirage("Option D", OPTIONS) == 3
    assert parse_choice_mirage("D", OPTIONS[:2]) == 0


PIECES = st.sampled_from(
    [
        "A",
        "B",
        "(C)",
        "Answer:",
        "the answer is",
        "option",
        '{"answer_choice": "',
        '"}',
        "\n",
        " ",
        "**",
    ]
)
TEXTS = st.one_of(
    st.text(), st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=30).map("".join)
)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.text(max_size=20), max_size=6))
def test_any_text_gives_an_option_or_none(text: str, options: list[str]) -> None:
    index = parse_choice(text, options)
    assert index is None or 0 <= index < len(options)
    assert 0 <= parse_choice_mirage(text, options) < max(1, len(options))


def test_a_long_looping_answer_is_quick() -> None:
    assert parse_choice("answer is answer is " * 20_000, OPTIONS) is None
    assert parse_choice("(" * 100_000, OPTIONS) is None
    assert parse_choice("A\n" + "\n" * 100_000, OPTIONS) == 0
    assert parse_choice("not aspirin " * 10_000, OPTIONS) is None
