from __future__ import annotations

from collections import Counter

import pytest

from blender_med.data import load_questions
from blender_med.data.sample import sample_folder

LONG = {
    "id": "s-long-01",
    "task": "long",
    "specialty": "surgery",
    "topic": "Hernia",
    "question_type": "treatment",
    "question": "What is done?",
    "reference": "It is repaired.",
    "source_note": "Textbook knowledge.",
}
MCQ = {
    **{k: v for k, v in LONG.items() if k != "reference"},
    "id": "s-mcq-01",
    "task": "mcq",
    "topic": "hernia",
    "options": ["Mesh", "Iron"],
    "answer_index": 0,
    "explanation": "Mesh repair is usual.",
}


def test_both_tasks(write):
    long, mcq = load_questions("sample", write("s.jsonl", [LONG, MCQ]))
    assert (long.id, long.task, long.reference) == ("sample/s-long-01", "long", "It is repaired.")
    assert (mcq.options, mcq.answer_index) == (("Mesh", "Iron"), 0)
    assert mcq.reference == "Mesh repair is usual."
    assert long.meta["group"] == mcq.meta["group"] == "hernia"
    assert long.meta["subject"] == "surgery"


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"answer_index": 2},
        {"answer_index": "A"},
        {"options": ["one"]},
        {"explanation": ""},
        {"topic": None},
        {"id": None},
    ],
)
def test_malformed_rows(write, change):
    questions = load_questions("sample", write("s.jsonl", [LONG, {**MCQ, **change}]))
    assert (len(questions), len(questions.quarantined)) == (1, 1)


def test_the_set_of_this_project():
    questions = load_questions("sample")
    assert not questions.quarantined
    tasks = Counter(q.task for q in questions)
    assert min(tasks["long"], tasks["mcq"]) >= 120
    assert len({q.meta["subject"] for q in questions}) >= 12
    assert all(q.meta.get("source_note") for q in questions)
    assert len({q.id for q in questions}) == len(questions)
    assert sample_folder().name == "sample"
