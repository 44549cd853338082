from __future__ import annotations

import random

import pytest

from blender_med.data import load_questions
from blender_med.data.contamination import overlap, repeated, shingles
from blender_med.errors import ConfigError
from blender_med.records import Question

WORDS = [f"word{i}" for i in range(400)]


def question(name: str, text: str, answer: str | None = None, dataset: str = "d") -> Question:
    return Question(name, dataset, "test", "long", text, reference=answer)


def passage(seed: int, n: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def test_exact_overlap_ignores_case_and_punctuation():
    a = [question("a1", "What is Gout?", "A disease."), question("a2", "Other?", "X")]
    b = [question("b1", "what is  gout"), question("b2", "Q?", "a DISEASE")]
    report = overlap(a, b)
    assert [(r.a_id, r.b_id, r.kind, r.containment) for r in report.rows] == [
        ("a1", "b1", "question", 1.0),
        ("a1", "b2", "answer", 1.0),
    ]
    assert report.contaminated() == {"a1"}
    assert report.contaminated("answer") == {"a1"}
    assert report.summary() == {"question": (1, 1, 1), "answer": (1, 1, 1)}


def test_containment_is_derived_by_hand():
    shared = passage(1, 27)  # 20 sequences of 8 words
    longer = f"{shared} {passage(2, 13)}"  # 40 words: 33 sequences, 20 of them shared
    report = overlap([question("a", "?", longer)], [question("b", "!", shared + " tail")])
    (row,) = report.rows
    assert row.kind == "near_answer"
    assert row.containment == pytest.approx(20 / 21)  # the shorter text has 21 sequences


def test_fewer_than_ten_shared_sequences_do_not_count():
    for words, found in ((16, 0), (17, 1)):  # 9 and 10 sequences
        shared = passage(3, words)
        pair = [question("a", "?", f"{shared} end")], [question("b", "!", f"start {shared}")]
        assert len(overlap(*pair).rows) == found


def test_threshold():
    shared = passage(4, 40)
    a, b = (
        [question("a", "?", shared + " " + passage(5, 40))],
        [question("b", "!", shared + " " + passage(6, 40))],
    )
    assert len(overlap(a, b, threshold=0.4).rows) == 1
    assert len(overlap(a, b, threshold=0.6).rows) == 0
    with pytest.raises(ConfigError):
        overlap(a, b, threshold=0.0)


def test_one_row_for_each_question_with_the_closest_counterpart():
    text = passage(7, 60)
    b = [question("b1", "!", text + " " + passage(8, 30)), question("b2", "!", text[:-1] + "x")]
    (row,) = overlap([question("a", "?", text + " z")], b).rows
    assert (row.matches, row.b_id) == (2, "b1")


def test_a_set_with_itself_lists_repeats_only():
    text = passage(9, 50)
    rows = [
        question("a", "One?", text),
        question("b", "Two?", text + " end"),
        question("c", "One?"),
    ]
    report = overlap(rows, rows)
    assert {(r.a_id, r.b_id, r.kind) for r in report.rows} == {
        ("a", "c", "question"),
        ("c", "a", "question"),
        ("a", "b", "near_answer"),
        ("b", "a", "near_answer"),
    }
    assert repeated(rows) == {"one": 2}


def test_empty_and_short_texts():
    assert overlap([], []).rows == ()
    assert overlap([question("a", "?")], []).summary() == {}
    assert overlap([question("a", "?")], [question("b", "!")]).rows == ()
    assert len(shingles("one two three", {})) == 0


def test_long_questions_are_compared_too():
    stem = passage(10, 80)
    report = overlap([question("a", stem + " Which drug?")], [question("b", "First: " + stem)])
    assert [r.kind for r in report.rows] == ["near_question"]


def test_real_genetics_answers_against_medical_meadow(shared_data, medquad):
    genetics = [q for q in medquad if q.meta["source"] == "GHR"]
    meadow = load_questions("medical_meadow", shared_data / "medical_meadow")
    found = overlap(genetics, meadow).contaminated("answer", "near_answer")
    # The data's own description counts 551 on uncleaned answers.
    assert abs(len(found) - 551) <= 10


@pytest.mark.slow
def test_real_medquad_against_medical_meadow(shared_data):
    medquad = load_questions("medquad", shared_data / "medquad")
    meadow = load_questions("medical_meadow", shared_data / "medical_meadow")
    report = overlap(medquad, meadow)
    asked = report.contaminated("question")
    assert len(asked) == 304
    # The published counts, 635 and 460, are of uncleaned answers.
    answers = [r for r in report.rows if r.kind in ("answer", "near_answer")]
    assert abs(len({r.a_id for r in answers}) - 635) <= 10
    assert abs(len({r.a_id for r in answers if r.containment >= 0.8}) - 460) <= 10


@pytest.mark.slow
def test_real_choice_sets_are_clean(shared_data):
    medmcqa = load_questions("medmcqa", shared_data / "medmcqa" / "dev.json")
    medqa = load_questions("medqa", shared_data / "medqa")
    meadow = load_questions("medical_meadow", shared_data / "medical_meadow")
    for a, b in ((medmcqa, meadow), (medqa, meadow), (medmcqa, medqa)):
        assert not overlap(a, b).contaminated("question")
