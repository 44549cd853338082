"""Examples of a fuser: the best candidates first, against the reference."""

from __future__ import annotations

import math

from blender_med.data.fusion import (
    BLANK,
    NO_REFERENCE,
    NO_USABLE,
    NO_VALUE,
    FusionExample,
    fusion_examples,
    fusion_source,
)
from blender_med.records import Candidate, Question


def _question(name: str, **changes: object) -> Question:
    fields = {"task": "long", "question": f"What is {name}?", "reference": f"{name} is known."}
    return Question(id=name, dataset="d", split="train", **(fields | changes))


def _candidates(name: str, *texts: str) -> list[Candidate]:
    return [Candidate(name, "e", i, text) for i, text in enumerate(texts)]


def _values(name: str, *values: float) -> dict[tuple[str, str], float]:
    keys = [c.key for c in _candidates(name, *map(str, values))]
    return {(name, key): value for key, value in zip(keys, values, strict=True)}


def test_candidates_stand_best_first_and_ties_as_given() -> None:
    found = fusion_examples(
        [_question("gout", context="Old.")],
        _candidates("gout", "low", "first of two", "second of two", "best"),
        _values("gout", 0.1, 0.5, 0.5, 0.9),
    )
    texts = ("best", "first of two", "second of two", "low")
    assert found.examples == [
        FusionExample("gout", "What is gout?", "Old.", texts, "gout is known.")
    ]
    assert found.dropped == {}


def test_equal_texts_count_once_where_they_are_best() -> None:
    found = fusion_examples(
        [_question("q")], _candidates("q", "same", "other", "same"), _values("q", 0.1, 0.5, 0.9)
    )
    assert found.examples[0].candidates == ("same", "other")


def test_what_teaches_nothing_is_left_out_and_counted() -> None:
    questions = [
        _question("good"),
        _question("silent", reference=None),
        _question("void", reference="  "),
        _question("blank"),
        _question("unscored"),
        _question("choice", task="mcq", options=("a", "b"), answer_index=0),
    ]
    candidates = [
        *_candidates("good", "a", "b", "c"),
        *_candidates("blank", " ", "\n"),
        *_candidates("unscored", "x"),
        *_candidates("choice", "a"),
        *_candidates("stranger", "a"),
    ]
    values = _values("good", 0.3, math.nan, math.inf) | _values("blank", 1.0, 2.0)
    found = fusion_examples(questions, candidates, values)
    assert [example.question_id for example in found.examples] == ["good"]
    assert found.examples[0].candidates == ("a",)
    assert found.dropped == {NO_REFERENCE: 2, NO_VALUE: 3, BLANK: 2, NO_USABLE: 2}


def test_no_question_gives_no_example() -> None:
    assert fusion_examples([], _candidates("q", "a"), {}) == ([], {})


def test_the_source_is_the_question_with_its_options_and_the_context() -> None:
    question = _question("q", options=("red", "blue"), context="A study.")
    assert fusion_source(question) == ("What is q?\nA. red\nB. blue", "A study.")
    assert fusion_source(_question("q")) == ("What is q?", "")
