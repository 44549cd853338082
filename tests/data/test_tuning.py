"""Which questions an expert is tuned on."""

from __future__ import annotations

from typing import Any

import pytest

from blender_med.data.tuning import HELD_OUT, NO_ANSWER, TEST, HeldOut, repeated, tuning_examples
from blender_med.records import Question


def asked(number: int, split: str = "train", **values: Any) -> Question:
    own = {"group": f"g{number}", "source": "AB"[number % 2]} | values.pop("meta", {})
    fields = {"reference": f"Answer number {number}."} | values
    text = fields.pop("question", f"What is condition {number}?")
    return Question(f"q{number}", "d", split, "long", text, meta=own, **fields)


def chosen(questions: list[Question], **settings: Any) -> Any:
    own = {"weight": 1.0, "held_out": HeldOut(()), "seed": 0} | settings
    return tuning_examples(questions, **own)


def ids(examples: Any) -> list[str]:
    return [example.question_id for example in examples]


def test_test_questions_and_those_without_an_answer_are_never_learned() -> None:
    mcq = Question("m", "d", "train", "mcq", "Which?", None, ("red", "blue"), None)
    questions = [asked(0), asked(1, "test"), asked(2, reference=None), mcq, asked(3, "dev")]
    found = chosen(questions)
    assert ids(found.train) == ["q0"]
    assert found.dropped == {TEST: 1, NO_ANSWER: 2}


@pytest.mark.parametrize(
    "twin",
    [
        asked(1, meta={"group": "g0"}),
        asked(1, question="what is CONDITION 0"),
        asked(1, reference="answer   number 0"),
    ],
)
def test_what_a_run_asks_is_held_out_by_document_question_and_answer(twin: Question) -> None:
    found = chosen([twin, asked(2), asked(4, "dev")], held_out=HeldOut([asked(0)]))
    assert ids(found.train) == ["q2"]
    assert found.dropped == {HELD_OUT: 1}


def test_a_common_wording_of_a_choice_is_no_reason_to_hold_it_out() -> None:
    wording = "Which of the following is true?"
    first = Question("a", "d", "test", "mcq", wording, None, ("x", "y"), 0)
    other = Question("b", "d", "train", "mcq", wording, None, ("x", "z"), 1)
    again = Question("c", "d", "train", "mcq", wording, None, ("x", "y"), 0)
    found = chosen([other, again, asked(5, "dev")], held_out=HeldOut([first]))
    assert ids(found.train) == ["b"]


def test_a_data_set_of_one_split_gives_documents_to_dev() -> None:
    questions = [asked(i, meta={"group": f"g{i // 4}"}) for i in range(400)]
    found = chosen(questions)
    assert len(found.train) + len(found.dev) == 400
    assert 4 <= len(found.dev) <= 60  # 5 of 100 documents on average
    groups = [{e.question.meta["group"] for e in own} for own in (found.train, found.dev)]
    assert not groups[0] & groups[1]


def test_weights_count_how_often_a_question_stands_there() -> None:
    questions = [asked(i) for i in range(10)]
    assert [q.id for q in repeated(questions, 2)][:4] == ["q0", "q0~2", "q1", "q1~2"]
    assert len(repeated(questions, 0.3)) == 3
    half = repeated(questions, 2.5)
    assert len(half) == 25
    assert len({q.id for q in half}) == 25
    assert [q.id for q in repeated(questions, 0.3)] == [q.id for q in repeated(questions, 0.3)]
    assert repeated([], 3) == []


def test_the_hash_input_sees_answer_and_options() -> None:
    one = chosen([asked(0), asked(1, "dev")]).train[0]
    other = chosen([asked(0, reference="Another."), asked(1, "dev")]).train[0]
    assert one.plain() != other.plain()
    assert list(one.answer_words) == ["Answer", "number", "0."]
