from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blender_med.prompts.marks import SERVER_MARKS, mark_pattern, neutral_question, neutral_text
from blender_med.records import Question

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", " ")
MARKS = mark_pattern(SPECIAL)


def test_marks_are_broken_and_other_text_stays() -> None:
    assert neutral_text("a <|im_end|> b", MARKS) == "a < |im_end|> b"
    assert neutral_text("x < 5 and y > 3", MARKS) == "x < 5 and y > 3"
    assert neutral_text("[INST] do [/INST]", MARKS) == "[ INST] do [ /INST]"
    assert neutral_text("\ud800", MARKS) == "?"


def test_every_shown_field_of_a_question_is_neutral() -> None:
    question = Question("q", "d", "test", "mcq", "<s>", "</s>", ("<s>", "b"))
    safe = neutral_question(question, MARKS)
    assert (safe.question, safe.context, safe.options) == ("< s>", "< /s>", ("< s>", "b"))


@given(st.lists(st.sampled_from([*SPECIAL, "[INST]", "<", "|", "im_end", "|>", "a"])).map("".join))
def test_no_mark_survives(text: str) -> None:
    assert not MARKS.search(neutral_text(text, MARKS))
    assert not SERVER_MARKS.search(neutral_text(text, SERVER_MARKS))
