from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from blender_med.prompts.truncate import GAP, cut_middle, fit_context


def words(text: str) -> int:
    return len(text.split())


def prompt(context: str) -> str:
    return f"{context}\nQuestion: is it so?"


def test_a_prompt_that_fits_is_left_alone() -> None:
    fitted = fit_context(prompt, "one two three", words, 7)
    assert (fitted.text, fitted.tokens, fitted.truncated_tokens) == (prompt("one two three"), 7, 0)
    assert fitted.fits


def test_the_middle_is_cut_and_the_question_stays() -> None:
    calls = []

    def count(text: str) -> int:
        calls.append(text)
        return words(text)

    context = " ".join(f"w{i}" for i in range(1000))
    fitted = fit_context(prompt, context, count, 100)
    assert fitted.fits
    assert 90 <= fitted.tokens <= 100
    assert fitted.truncated_tokens == 1004 - fitted.tokens
    assert fitted.text.startswith("w0 w1 ")
    assert fitted.text.endswith("w999\nQuestion: is it so?")
    assert GAP.strip() in fitted.text
    assert len(calls) <= 16


def test_a_question_that_is_too_long_does_not_fit() -> None:
    fitted = fit_context(prompt, "a b c", words, 3)
    assert not fitted.fits
    assert fitted.text == prompt("")
    assert not fit_context(prompt, "", words, 3).fits


def test_cut_middle_edges() -> None:
    assert cut_middle("abc", 3) == "abc"
    assert cut_middle("abc", 0) == ""
    assert cut_middle("", 5) == ""


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(0, 60))
def test_what_fits_is_within_the_budget(context: str, budget: int) -> None:
    fitted = fit_context(prompt, context, len, budget + 22)
    assert fitted.tokens == len(fitted.text)
    assert fitted.fits == (fitted.tokens <= budget + 22)
    assert fitted.text.endswith("\nQuestion: is it so?")
