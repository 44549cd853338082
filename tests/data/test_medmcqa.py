from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from blender_med.data import load_questions
from blender_med.errors import BlenderMedError, DataError

ROW = {
    "question": "Which vitamin prevents scurvy?",
    "exp": "Ans-c. Ascorbic acid.",
    "cop": 3,
    "opa": "Vitamin A",
    "opb": "Vitamin B1",
    "opc": "Vitamin C",
    "opd": "Vitamin D",
    "subject_name": "Biochemistry",
    "topic_name": None,
    "id": "row-1",
    "choice_type": "single",
}


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **changes}


def test_one_based_original(write):
    questions = load_questions("medmcqa", write("dev.jsonl", [ROW]))
    question = questions[0]
    assert question.id == "medmcqa/row-1"
    assert (question.task, question.split, question.dataset) == ("mcq", "dev", "medmcqa")
    assert question.options == ("Vitamin A", "Vitamin B1", "Vitamin C", "Vitamin D")
    assert question.answer_index == 2
    assert question.meta["subject"] == "Biochemistry"
    assert not questions.quarantined


def test_the_explanation_is_never_shown(write):
    question = load_questions("medmcqa", write("dev.jsonl", [ROW]))[0]
    assert question.reference == "Ans-c. Ascorbic acid."
    shown = f"{question.question} {question.context} {question.options}"
    assert "Ans-c" not in shown
    assert "Ans-c" not in str(dict(question.meta))


def test_json_list_reads_like_json_lines(write):
    rows = [ROW, row(id="row-2", cop=1)]
    assert load_questions("medmcqa", write("dev.json", rows)) == load_questions(
        "medmcqa", write("lines/dev.jsonl", rows)
    )


@pytest.mark.parametrize(
    ("cops", "indices"),
    [([1, 2, 3], [0, 1, 2]), ([1, 4], [0, 3]), ([0, 1, 3], [0, 1, 3]), (["1", 4.0], [0, 3])],
)
def test_base_is_found_over_the_whole_file(write, cops, indices):
    rows = [row(cop=cop, id=f"row-{n}") for n, cop in enumerate(cops)]
    questions = load_questions("medmcqa", write("dev.jsonl", rows))
    assert [q.answer_index for q in questions] == indices


def test_mixed_base_is_a_clear_error(write):
    path = write("dev.jsonl", [row(cop=0), row(cop=4)])
    with pytest.raises(DataError, match="both 0 and 4") as caught:
        load_questions("medmcqa", path)
    assert "cop_base" in str(caught.value)


def test_forced_base_quarantines_what_lies_outside(write):
    path = write("dev.jsonl", [row(cop=0, id="a"), row(cop=4, id="b")])
    questions = load_questions("medmcqa", path, options={"cop_base": 0})
    assert [q.answer_index for q in questions] == [0]
    assert "'cop' must be 0 to 3" in questions.quarantined[0].reason


@pytest.mark.parametrize(("cops", "base", "other"), [([1, 2, 4], 0, 1), ([0, 3, 0], 1, 0)])
def test_forced_base_that_shifts_every_label_is_a_clear_error(write, cops, base, other):
    rows = [row(cop=cop, id=f"row-{n}") for n, cop in enumerate([*cops, None])]
    with pytest.raises(DataError, match=f"'cop' counts from {other}.*Fix: set it to {other}"):
        load_questions("medmcqa", write("dev.jsonl", rows), options={"cop_base": base})


@pytest.mark.parametrize("base", [2, True, "one"])
def test_unknown_base(write, base):
    with pytest.raises(BlenderMedError, match="cop_base"):
        load_questions("medmcqa", write("dev.jsonl", [ROW]), options={"cop_base": base})


@pytest.mark.parametrize(
    "change",
    [
        {"cop": 7},
        {"cop": None},
        {"cop": "third"},
        {"cop": True},
        {"cop": 2.5},
        {"opb": None},
        {"opb": "  "},
        {"opb": ["x"]},
        {"opb": float("nan")},
        {"question": ""},
        {"question": {"text": "x"}},
    ],
)
def test_malformed_row_is_quarantined_with_its_place(write, change):
    path = write("dev.jsonl", [ROW, row(id="bad", **change), row(id="row-3")])
    questions = load_questions("medmcqa", path)
    assert [q.id for q in questions] == ["medmcqa/row-1", "medmcqa/row-3"]
    (refused,) = questions.quarantined
    assert (refused.file, refused.position) == (str(path), "2")
    assert refused.reason
    with pytest.raises(DataError, match="row 2"):
        load_questions("medmcqa", path, strict=True)


def test_number_options_become_text_and_equal_options_are_noted(write):
    path = write("dev.jsonl", [row(opa=5, opb=5.5, opc="Same ", opd="same")])
    question = load_questions("medmcqa", path)[0]
    assert question.options == ("5", "5.5", "Same ", "same")
    assert question.meta["duplicate_options"] == "true"


def test_repeated_ids_are_made_unique(write):
    path = write("dev.jsonl", [ROW, ROW, row(id="row-1#2"), ROW])
    ids = [q.id for q in load_questions("medmcqa", path)]
    assert ids == ["medmcqa/row-1", "medmcqa/row-1#3", "medmcqa/row-1#2", "medmcqa/row-1#4"]


def test_repeated_question_shares_its_group(write):
    path = write("dev.jsonl", [ROW, row(question="WHICH vitamin, prevents scurvy", id="b")])
    first, second = load_questions("medmcqa", path)
    assert first.meta["group"] == second.meta["group"]


def test_test_file_without_answers(write):
    unlabelled = {k: v for k, v in ROW.items() if k != "cop"}
    question = load_questions("medmcqa", write("test.json", [unlabelled]))[0]
    assert (question.split, question.answer_index) == ("test", None)


def test_medqa_file_is_refused(write):
    medqa = {"question": "Why?", "options": {"A": "a", "B": "b"}, "answer_idx": "A", "answer": "a"}
    with pytest.raises(DataError, match="not a medmcqa data set") as caught:
        load_questions("medmcqa", write("test.jsonl", [medqa]))
    assert "type" in caught.value.fix


def test_hub_rows_count_from_zero(hub):
    calls = hub({"train": [row(cop=1)], "validation": [row(cop=3, id="v")], "test": [row(cop=-1)]})
    questions = load_questions("medmcqa")
    assert calls == [("openlifescienceai/medmcqa", None, None)]
    assert [(q.split, q.answer_index) for q in questions] == [
        ("train", 1),
        ("dev", 3),
        ("test", None),
    ]


def test_local_folder_in_hub_layout(tmp_path):
    import datasets

    folder = tmp_path / "medmcqa"
    for split, cop in (("train", 0), ("validation", 3)):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list([row(cop=cop, id=split), row(cop=0, id=split + "2")]).to_parquet(
            path
        )
    questions = load_questions("medmcqa", folder)
    assert Counter(q.split for q in questions) == {"train": 2, "dev": 2}
    assert {q.id: q.answer_index for q in questions}["medmcqa/validation"] == 3


def test_folder_saved_by_datasets(tmp_path):
    import datasets

    saved = datasets.DatasetDict({"validation": datasets.Dataset.from_list([row(cop=0)])})
    saved.save_to_disk(tmp_path / "saved")
    (question,) = load_questions("medmcqa", tmp_path / "saved")
    assert (question.split, question.answer_index) == ("dev", 0)


def test_real_file(shared_data):
    questions = load_questions("medmcqa", shared_data / "medmcqa" / "dev.json")
    assert len(questions) == 3483
    assert not questions.quarantined
    assert Counter(q.answer_index for q in questions) == {0: 1121, 1: 899, 2: 759, 3: 704}
    assert Counter(q.meta["question_type"] for q in questions) == {"single": 2336, "multi": 1147}
    assert sum(q.reference is None for q in questions) == 1657
    assert len({q.id for q in questions}) == 3483
    assert all(q.split == "dev" for q in questions)
