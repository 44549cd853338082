from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from blender_med.data import load_questions
from blender_med.errors import ConfigError, DataError

FOUR = {
    "question": "A patient has fever.\nWhich drug helps?",
    "answer": "Paracetamol",
    "options": {"A": "Insulin", "B": "Paracetamol", "C": "Iron", "D": "Zinc"},
    "meta_info": "step1",
    "answer_idx": "B",
    "metamap_phrases": ["patient", "fever"],
}
FIVE = {
    **FOUR,
    "options": {"A": "Copper", "B": "Insulin", "C": "Paracetamol", "D": "Iron", "E": "Zinc"},
    "answer_idx": "C",
}


@pytest.fixture
def both(write) -> Any:
    write("medqa/4_options/phrases_no_exclude_test.jsonl", [FOUR])
    return write("medqa/5_options/test.jsonl", [FIVE]).parents[1]


def test_four_options(write):
    (question,) = load_questions("medqa", write("phrases_no_exclude_test.jsonl", [FOUR]))
    assert (question.split, question.answer_index) == ("test", 1)
    assert question.options == ("Insulin", "Paracetamol", "Iron", "Zinc")
    assert question.question == FOUR["question"]
    assert question.meta["question_type"] == "step1"


def test_a_single_file_with_five_options_needs_no_setting(write):
    (question,) = load_questions("medqa", write("test.jsonl", [FIVE]))
    assert (len(question.options or ()), question.answer_index) == (5, 2)


@pytest.mark.parametrize(
    ("options", "n"), [(None, 4), ({"n_options": 4}, 4), ({"n_options": 5}, 5)]
)
def test_folder_with_both_gives_one_of_them(both, options, n):
    (question,) = load_questions("medqa", both, options=options)
    assert len(question.options or ()) == n


def test_number_of_options_that_no_file_has(both):
    with pytest.raises(DataError, match="4, 5"):
        load_questions("medqa", both, options={"n_options": 3})


def test_unknown_option_is_suggested(both):
    with pytest.raises(ConfigError, match="n_options"):
        load_questions("medqa", both, options={"n_option": 4})


@pytest.mark.parametrize(
    "change",
    [
        {"answer_idx": "E"},
        {"answer_idx": None},
        {"answer_idx": 2},
        {"answer": "Insulin"},
        {"options": {"A": "x", "C": "y"}},
        {"options": {"A": "x"}},
        {"options": {"A": "x", "B": None, "C": "z", "D": "w"}},
        {"options": "Insulin"},
        {"options": None},
        {"question": None},
    ],
)
def test_malformed_rows(write, change):
    questions = load_questions("medqa", write("test.jsonl", [FOUR, {**FOUR, **change}]))
    assert (len(questions), len(questions.quarantined)) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        ["Insulin", "Paracetamol", "Iron", "Zinc"],
        [{"key": k, "value": v} for k, v in FOUR["options"].items()],  # type: ignore[attr-defined]
    ],
)
def test_hub_option_forms(hub, options):
    calls = hub({"test": [{**FOUR, "options": options}]})
    (question,) = load_questions("medqa", options={"revision": "abc"})
    assert question.options == ("Insulin", "Paracetamol", "Iron", "Zinc")
    assert calls == [("GBaker/MedQA-USMLE-4-options", None, "abc")]


@pytest.mark.parametrize(
    ("folder", "n", "letters"),
    [
        ("4_options", 4, {0: 244, 1: 219, 2: 233, 3: 177}),
        ("5_options", 5, {0: 195, 1: 189, 2: 173, 3: 181, 4: 135}),
    ],
)
def test_real_files(shared_data, folder, n, letters):
    questions = load_questions("medqa", shared_data / "medqa", options={"n_options": n})
    assert len(questions) == 873
    assert questions == load_questions("medqa", shared_data / "medqa" / folder)
    assert Counter(q.answer_index for q in questions) == letters
    assert Counter(q.meta["question_type"] for q in questions) == {"step1": 475, "step2&3": 398}


def test_both_real_files_ask_the_same(shared_data):
    four = load_questions("medqa", shared_data / "medqa")
    five = load_questions("medqa", shared_data / "medqa", options={"n_options": 5})
    assert {q.meta["group"] for q in four} == {q.meta["group"] for q in five}
