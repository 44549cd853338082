from __future__ import annotations

from blender_med.data import Questions, load_questions
from blender_med.data.config import DatasetConfig
from blender_med.data.describe import describe, describe_passages
from blender_med.data.loading import load_any


def test_counts_by_hand(write):
    rows = [
        {"question": "one two three", "reference": "a b", "subject": "x"},
        {"question": "one", "options": ["yes", "no no"], "answer": 1, "question_type": "t"},
        {"question": "one", "options": ["yes", "YES"], "answer": 0, "split": "test"},
        {"question": ""},
    ]
    found = describe(load_questions("jsonl", write("m.jsonl", rows)))
    assert (found.questions, found.groups, found.repeated_questions) == (3, 2, 1)
    assert found.counts == {("test", "mcq"): 1, ("train", "long"): 1, ("train", "mcq"): 1}
    assert found.lengths["question"] == {
        "min": 1.0,
        "p5": 1.0,
        "p25": 1.0,
        "median": 1.0,
        "p75": 2.0,
        "p95": 2.8,
        "max": 3.0,
    }
    assert set(found.lengths) == {"question", "option", "reference"}
    assert found.labels == {"A": 1, "B": 1}
    assert found.question_types == {"t": 1}
    assert found.subjects == {"x": 1}
    assert found.duplicate_options == 1
    assert found.quarantined == {"'question' is empty": 1}


def test_empty_set():
    found = describe(Questions())
    assert (found.questions, found.counts, found.lengths, found.labels) == (0, {}, {}, {})


def test_passages_by_hand(write):
    text = "1|t|One two\n1|a|a b c\n\n2|t|One\n2|a|a\n\n3|t|No abstract\n"
    config = DatasetConfig(type="pubmed_abstracts", path=str(write("train.txt", text)))
    found = describe_passages(load_any(config))
    assert (found.passages, found.groups, found.words) == (2, 2, 4)
    assert found.counts == {"train": 2}
    assert found.lengths["text"]["max"] == 3
    assert found.lengths["title"]["min"] == 1
    assert found.licenses == {"unknown": 2}
    assert found.quarantined == {"no abstract line": 1}


def test_labels_by_text_where_all_options_are_the_same(shared_data):
    found = describe(load_questions("pubmedqa", shared_data / "pubmedqa"))
    assert found.labels == {"maybe": 70, "no": 235, "yes": 395}
    # Words of the context as the data's own description counts them.
    assert found.lengths["context"]["min"] == 49
    assert found.lengths["context"]["max"] == 398


def test_real_medquad_lengths(medquad):
    found = describe(medquad)
    assert found.lengths["reference"]["median"] == 138
    assert found.lengths["reference"]["p75"] == 251
