from __future__ import annotations

import pytest

from blender_med.data import load_questions
from blender_med.data.mixinstruct import load_candidates
from blender_med.errors import DataError

ROW = {
    "id": "unified/1",
    "instruction": "Explain",
    "input": "gout",
    "output": "A disease.",
    "candidates": [
        {"model": "alpaca", "decoding_method": "top_p", "text": "Gout.", "scores": {"bleu": 1.5}},
        {"model": "alpaca", "text": "", "scores": {"bleu": float("nan"), "bertscore": 0.7}},
        {"model": None, "text": "x"},
        {"model": "vicuna", "text": "Pain.", "scores": None},
        "rubbish",
    ],
    "cmp_results": "{}",
}


def test_questions(write):
    rows = [ROW, {**ROW, "id": "u2", "input": ""}, {**ROW, "id": "u3", "instruction": ""}]
    questions = load_questions("mixinstruct", write("val_data_prepared.jsonl", rows))
    assert [(q.question, q.context) for q in questions] == [
        ("Explain", "gout"),
        ("Explain", None),
        ("gout", None),
    ]
    assert (questions[0].id, questions[0].split) == ("mixinstruct/unified/1", "dev")
    assert questions[0].reference == "A disease."


def test_candidates(write):
    path = write("train.json", [ROW, {**ROW, "output": None}, {**ROW, "candidates": "x"}])
    found = load_candidates(path)
    assert [(c.question_id, c.key, c.text) for c in found.candidates] == [
        ("mixinstruct/unified/1", "alpaca#0", "Gout."),
        ("mixinstruct/unified/1", "alpaca#1", ""),
        ("mixinstruct/unified/1", "vicuna#0", "Pain."),
    ]
    assert [(s.key, s.metric, s.value) for s in found.scores] == [
        ("alpaca#0", "bleu", 1.5),
        ("alpaca#1", "bertscore", 0.7),
    ]
    assert found.quarantined.reasons() == {
        "score 'bleu' of alpaca#1 is not a finite number": 1,
        "'model' is empty": 1,
        "the row must be an object, not str": 1,
        "'output' is empty": 1,
        "'candidates' must be a list": 1,
    }


def test_repeated_ids_match_those_of_the_questions(write):
    path = write("train.jsonl", [ROW, ROW])
    ids = [q.id for q in load_questions("mixinstruct", path)]
    assert list(dict.fromkeys(c.question_id for c in load_candidates(path).candidates)) == ids


@pytest.mark.parametrize("change", [{"instruction": "", "input": None}, {"output": ""}])
def test_malformed_rows(write, change):
    questions = load_questions("mixinstruct", write("train.jsonl", [ROW, {**ROW, **change}]))
    assert (len(questions), len(questions.quarantined)) == (1, 1)


def test_medical_meadow_is_refused(write):
    with pytest.raises(DataError, match="not a mixinstruct"):
        load_candidates(write("a.json", [{"instruction": "a", "input": "b", "output": "c"}]))


def test_hub(hub):
    row = {**ROW, "candidates": ROW["candidates"][:1]}  # type: ignore[index]
    calls = hub({"train": [row], "validation": [row], "test": [row]})
    assert [q.split for q in load_questions("mixinstruct")] == ["train", "dev", "test"]
    assert len(load_candidates("llm-blender/mix-instruct").scores) == 3
    assert {c[0] for c in calls} == {"llm-blender/mix-instruct"}
