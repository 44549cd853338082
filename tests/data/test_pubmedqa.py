from __future__ import annotations

from collections import Counter

import pytest

from blender_med.data import load_questions
from blender_med.data.config import DatasetConfig
from blender_med.data.fingerprint import dataset_fingerprint
from blender_med.errors import DataError

ENTRY = {
    "QUESTION": "Does rest help?",
    "CONTEXTS": ["Rest was studied.", "It helped in 60 %."],
    "LABELS": ["AIM", "RESULTS"],
    "MESHES": ["Humans", "Rest"],
    "YEAR": None,
    "reasoning_required_pred": "yes",
    "reasoning_free_pred": "yes",
    "final_decision": "yes",
    "LONG_ANSWER": "Rest helps.",
}
DATA = {"11": ENTRY, "22": {**ENTRY, "final_decision": "maybe", "YEAR": "2006"}}


def test_fields(write):
    first, second = load_questions("pubmedqa", write("ori_pqal.json", DATA))
    assert first.id == "pubmedqa/11"
    assert first.context == "Rest was studied.\nIt helped in 60 %."
    assert (first.options, first.answer_index) == (("yes", "no", "maybe"), 0)
    assert first.meta["sections"] == "AIM|RESULTS"
    assert "year" not in first.meta
    assert (second.answer_index, second.meta["year"]) == (2, "2006")
    assert {q.split for q in (first, second)} == {"train"}


def test_the_conclusion_is_never_shown(write):
    question = load_questions("pubmedqa", write("ori_pqal.json", DATA))[0]
    assert question.reference == "Rest helps."
    shown = f"{question.question} {question.context} {question.options} {dict(question.meta)}"
    assert "Rest helps." not in shown
    assert "reasoning" not in shown


@pytest.mark.parametrize("ids", ['{"22": "maybe"}', '{\n    "22": "maybe"\n}'])
def test_official_test_ids_beside_the_file(write, ids):
    path = write("ori_pqal.json", DATA)
    write("test_ground_truth.json", ids)
    expected = {"pubmedqa/11": "train", "pubmedqa/22": "test"}
    assert {q.id: q.split for q in load_questions("pubmedqa", path)} == expected
    assert {q.id: q.split for q in load_questions("pubmedqa", path.parent)} == expected
    assert [q.id for q in load_questions("pubmedqa", path, split="test")] == ["pubmedqa/22"]


def test_test_ids_named_by_an_option(write, tmp_path):
    ids = write("ids/mine.json", {"11": "yes"})
    path = write("data/ori_pqal.json", DATA)
    questions = load_questions("pubmedqa", path, options={"test_ids": str(ids)})
    assert [q.split for q in questions] == ["test", "train"]
    with pytest.raises(DataError):
        load_questions("pubmedqa", path, options={"test_ids": str(tmp_path / "none.json")})


def test_test_ids_split_the_hub_s_rows_too(hub, write):
    row = {"question": "Q?", "context": {"contexts": ["A."]}, "final_decision": "no"}
    hub({"train": [{"pubid": 11, **row}, {"pubid": 22, **row}]})
    ids = write("ids.json", {"22": "no"})
    questions = load_questions("pubmedqa", options={"test_ids": str(ids)})
    assert [(q.id, q.split) for q in questions] == [
        ("pubmedqa/11", "train"),
        ("pubmedqa/22", "test"),
    ]


def test_the_ids_are_part_of_the_fingerprint(write):
    path = write("ori_pqal.json", DATA)
    config = DatasetConfig(type="pubmedqa", path=str(path))
    prints = [dataset_fingerprint(config)]
    for ids in ({"22": "maybe"}, {"11": "yes"}):
        write("test_ground_truth.json", ids)
        prints.append(dataset_fingerprint(config))
    assert len(set(prints)) == 3


def test_split_files_of_the_authors(write):
    assert load_questions("pubmedqa", write("pqal_fold0/dev_set.json", DATA))[0].split == "dev"


@pytest.mark.parametrize(
    "change",
    [
        {"CONTEXTS": None},
        {"CONTEXTS": "text"},
        {"CONTEXTS": ["a", None]},
        {"final_decision": "perhaps"},
        {"final_decision": None},
        {"QUESTION": " "},
    ],
)
def test_malformed_entries(write, change):
    path = write("ori_pqal.json", {**DATA, "33": {**ENTRY, **change}})
    questions = load_questions("pubmedqa", path)
    assert len(questions) == 2
    assert [r.position for r in questions.quarantined] == ["33"]


def test_repeated_and_truncated_keys_do_not_vanish(write):
    import json

    entry = json.dumps(ENTRY)
    text = f'{{\n"11": {entry},\n"11": {entry},\n"22": "none",\n"33": {{"QUEST'
    questions = load_questions("pubmedqa", write("ori_pqal.json", text))
    assert [q.id for q in questions] == ["pubmedqa/11", "pubmedqa/11#2"]
    assert [r.position for r in questions.quarantined] == ["22", "33"]


def test_hub_columns(hub):
    row = {
        "pubid": 11,
        "question": "Does rest help?",
        "context": {"contexts": ["A.", "B."], "labels": ["AIM", "RESULTS"], "meshes": ["Rest"]},
        "long_answer": "Rest helps.",
        "final_decision": "no",
    }
    calls = hub({"train": [row]})
    (question,) = load_questions("pubmedqa")
    assert calls == [("qiaojin/PubMedQA", "pqa_labeled", None)]
    assert (question.id, question.context, question.answer_index) == ("pubmedqa/11", "A.\nB.", 1)
    load_questions("pubmedqa", options={"config": "pqa_artificial"})
    assert calls[-1] == ("qiaojin/PubMedQA", "pqa_artificial", None)


def test_local_hub_repository_reads_one_configuration(tmp_path):
    import datasets

    row = {"pubid": 1, "question": "Q?", "context": {"contexts": ["A."]}, "final_decision": "no"}
    for config, n in (("pqa_labeled", 1), ("pqa_artificial", 2)):
        path = tmp_path / config / "train-00000-of-00001.parquet"
        path.parent.mkdir()
        datasets.Dataset.from_list([row] * n).to_parquet(path)
    assert len(load_questions("pubmedqa", tmp_path)) == 1
    assert len(load_questions("pubmedqa", tmp_path, options={"config": "pqa_artificial"})) == 2


def test_real_files(shared_data):
    questions = load_questions("pubmedqa", shared_data / "pubmedqa")
    assert len(questions) == 700
    labels = Counter((q.split, (q.options or ())[q.answer_index or 0]) for q in questions)
    assert labels == {
        ("train", "yes"): 276,
        ("train", "no"): 169,
        ("train", "maybe"): 55,
        ("test", "yes"): 119,
        ("test", "no"): 66,
        ("test", "maybe"): 15,
    }
    assert sum("year" not in q.meta for q in questions) == 45
    assert all(q.reference not in (q.context or "") for q in questions)
    assert questions == load_questions("pubmedqa", shared_data / "pubmedqa" / "ori_pqal.json")
