from __future__ import annotations

import pytest

from blender_med.errors import ConfigError, DataError
from blender_med.prompts import chat_messages, lm_eval_choices, lm_eval_prompt, plain_prompt
from blender_med.records import Question


def mcq(dataset: str, **changes: object) -> Question:
    values = {
        "id": "q1",
        "dataset": dataset,
        "split": "test",
        "task": "mcq",
        "question": "Which vitamin prevents scurvy?",
        "options": ("Vitamin A", "Vitamin B", "Vitamin C", "Vitamin D"),
        "answer_index": 2,
    }
    return Question(**{**values, **changes})  # type: ignore[arg-type]


PUBMEDQA = mcq("pubmedqa", context="First.\nSecond.", options=("yes", "no", "maybe"))
LETTERED = "A. Vitamin A\nB. Vitamin B\nC. Vitamin C\nD. Vitamin D"
LONG = Question("q2", "medquad", "test", "long", "What is asthma?")


def test_prompts_of_the_harness() -> None:
    question = "Which vitamin prevents scurvy?"
    assert lm_eval_prompt(mcq("medqa")) == f"Question: {question}\n{LETTERED}\nAnswer:"
    assert lm_eval_prompt(mcq("medmcqa")) == f"Question: {question}\nChoices:\n{LETTERED}\nAnswer:"
    assert lm_eval_prompt(mcq("mmlu")) == f"{question}\n{LETTERED}\nAnswer:"
    assert lm_eval_prompt(PUBMEDQA) == f"Abstract: First.\nSecond.\nQuestion: {question}\nAnswer:"


def test_choices_of_the_harness() -> None:
    assert lm_eval_choices(mcq("medqa")) == (" A", " B", " C", " D")
    assert lm_eval_choices(PUBMEDQA) == (" yes", " no", " maybe")


def test_context_can_be_replaced() -> None:
    assert lm_eval_prompt(PUBMEDQA, "Short.").startswith("Abstract: Short.\nQuestion:")
    assert lm_eval_prompt(PUBMEDQA, "").startswith("Abstract: \nQuestion:")


@pytest.mark.parametrize("options", [None, (), ("one",), tuple(map(str, range(27)))])
def test_options_are_required(options: tuple[str, ...] | None) -> None:
    with pytest.raises(DataError, match="q1 needs 2 to 26 options"):
        lm_eval_prompt(mcq("medqa", options=options))


def test_plain_templates() -> None:
    assert plain_prompt("qa", LONG) == "Question: What is asthma?\nAnswer:"
    assert (
        plain_prompt("instruct", LONG, system="Be brief.")
        == "[INST] Be brief.\n\nWhat is asthma? [/INST]"
    )
    assert "### Input:\nWhat is asthma?\n\n### Response:\n" in plain_prompt("alpaca", LONG)
    assert plain_prompt("biogpt", PUBMEDQA) == (
        "question: Which vitamin prevents scurvy? context: First.\nSecond."
        " the answer to the question given the context is"
    )
    assert plain_prompt("qa", mcq("medqa")).endswith(
        f"{LETTERED}\nAnswer with the letter of the best option.\nAnswer:"
    )


def test_braces_of_a_question_stay() -> None:
    question = Question("q", "x", "test", "long", "What is {context} or {0}?")
    assert "What is {context} or {0}?" in plain_prompt("qa", question)


def test_unknown_template_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigError, match="did you mean 'alpaca'"):
        plain_prompt("alpacca", LONG)


def test_chat_messages() -> None:
    system, user = chat_messages(PUBMEDQA, system="You are a doctor.")
    assert system == {"role": "system", "content": "You are a doctor."}
    assert user["content"].startswith("First.\nSecond.\n\nWhich vitamin")
    assert user["content"].endswith("Answer with one word: yes, no or maybe.")
    assert chat_messages(LONG) == [{"role": "user", "content": "What is asthma?"}]
