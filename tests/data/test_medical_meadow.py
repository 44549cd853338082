from __future__ import annotations

from collections import Counter

import pytest

from blender_med.data import load_questions
from blender_med.errors import DataError

WIKIDOC = {
    "instruction": "Answer this question truthfully",
    "input": "What causes Allergy?",
    "output": "The immune system<ref>Book</ref> overreacts.<br>See [[IgE|antibodies]] at <5%.",
}
MEDQA = {
    "instruction": "Please answer with one of the option in the bracket",
    "input": "Q:A woman {aged 23} has cystitis. Which drug? \n"
    "{'A': 'Ampicillin', 'B': \"Crohn's\", 'C': 'Ciprofloxacin', 'D': 'Doxycycline', "
    "'E': 'Nitrofurantoin'},",
    "output": "E: Nitrofurantoin",
}


def test_wikidoc_is_long_form_without_markup(write):
    (question,) = load_questions("medical_meadow", write("meadow.json", [WIKIDOC]))
    assert question.task == "long"
    assert question.reference == "The immune system overreacts.\nSee antibodies at <5%."
    assert question.meta["instruction"] == "Answer this question truthfully"


def test_medqa_is_multiple_choice(write):
    (question,) = load_questions("medical_meadow", write("meadow.json", [MEDQA]))
    assert question.question == "A woman {aged 23} has cystitis. Which drug?"
    assert question.options == (
        "Ampicillin",
        "Crohn's",
        "Ciprofloxacin",
        "Doxycycline",
        "Nitrofurantoin",
    )
    assert (question.task, question.answer_index) == ("mcq", 4)


@pytest.mark.parametrize(
    "change",
    [
        {"output": "F: Other"},
        {"output": "E: Ampicillin"},
        {"output": ""},
        {"input": "Q:Which? {'A': 'x', 'B': 'y'"},
        {"input": "{'A': 'x', 'B': 'y'}", "output": "A: x"},
        {"input": "Q:Which? {'A': __import__('os'), 'B': 'y'}"},
        {"input": "Q:Which? {'A': " + "[" * 3000 + "}"},
        {"input": "Q:Which? {'A': 'x', 'C': 'y'}"},
        {"input": "Q:Which one, without options?"},
        {"input": None},
    ],
)
def test_malformed_rows(write, change):
    path = write("meadow.json", [MEDQA, {**MEDQA, **change}])
    questions = load_questions("medical_meadow", path)
    assert (len(questions), len(questions.quarantined)) == (1, 1)
    assert questions.quarantined[0].position == "2"


def test_repeats_share_a_group(write):
    path = write("meadow.json", [WIKIDOC, {**WIKIDOC, "input": "what causes allergy"}])
    first, second = load_questions("medical_meadow", path)
    assert first.id != second.id
    assert first.meta["group"] == second.meta["group"]


def test_mixinstruct_is_refused(write):
    row = {**WIKIDOC, "candidates": []}
    with pytest.raises(DataError, match="not a medical_meadow"):
        load_questions("medical_meadow", write("rows.json", [row]))


def test_hub(hub):
    calls = hub({"train": [MEDQA]})
    assert load_questions("medical_meadow")[0].id == "medical_meadow/train/1"
    load_questions("medical_meadow", "medalpaca/medical_meadow_wikidoc")
    assert [c[0] for c in calls] == [
        "medalpaca/medical_meadow_medqa",
        "medalpaca/medical_meadow_wikidoc",
    ]


def test_real_file(shared_data):
    questions = load_questions("medical_meadow", shared_data / "medical_meadow")
    assert len(questions) == 5942
    assert not questions.quarantined
    repeats = Counter(q.meta["group"] for q in questions)
    assert sum(n - 1 for n in repeats.values()) == 175
    assert sum(n > 1 for n in repeats.values()) == 127
    text = " ".join(q.reference or "" for q in questions)
    assert not any(tag in text for tag in ("<ref", "<br>", "nowiki>", "[["))
