from __future__ import annotations

import json

import pytest

from blender_med.data import load_questions
from blender_med.errors import BlenderMedError, ConfigError, DataError

LONG = {"question": "What is gout?", "reference": "A disease."}
MCQ = {"question": "Which?", "options": ["red", "green", "blue"], "answer": "green"}


def test_task_follows_from_the_options(write):
    path = write("mine.jsonl", [LONG, MCQ, {**LONG, "options": None}])
    long, mcq, null = load_questions("jsonl", path)
    assert (long.task, long.reference, long.answer_index) == ("long", "A disease.", None)
    assert (mcq.task, mcq.options, mcq.answer_index) == ("mcq", ("red", "green", "blue"), 1)
    assert null.task == "long"
    assert (long.id, long.dataset, long.split) == ("mine/1", "mine", "train")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_column_map_in_every_format(tmp_path, suffix):
    rows = [{"q": "Why?", "o1": "yes", "o2": "no", "gold": "B", "part": "validation", "no": "7"}]
    path = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        path.write_text("q,o1,o2,gold,part,no\r\nWhy?,yes,no,B,validation,7\r\n\r\n")
    elif suffix == "jsonl":
        path.write_text(json.dumps(rows[0]))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    columns = {"question": "q", "options": "o1, o2", "answer": "gold", "split": "part", "id": "no"}
    (question,) = load_questions(suffix, path, columns=columns)
    assert (question.options, question.answer_index) == (("yes", "no"), 1)
    assert (question.split, question.id) == ("dev", "mine/7")


@pytest.mark.parametrize(
    ("answer", "options", "base", "index"),
    [
        (2, ["a", "b", "c"], 0, 2),
        (2, ["a", "b", "c"], 1, 1),
        (2.0, ["a", "b", "c"], 0, 2),
        ("C", ["x", "y", "z"], 0, 2),
        ("c", ["x", "y", "z"], 1, 2),
        ("1", ["x", "y", "z"], 0, 1),
        ("1", ["3", "2", "1"], 0, 2),
        ("A", ["B", "A", "AB"], 0, 1),
        (" y ", ["x", "y", "z"], 0, 1),
        ("same", ["x", "same", "same"], 0, 1),
    ],
)
def test_answers(write, answer, options, base, index):
    path = write("m.jsonl", [{"question": "Q?", "options": options, "answer": answer}])
    (question,) = load_questions("jsonl", path, options={"answer_base": base})
    assert question.answer_index == index


def test_answers_that_count_from_one_are_a_clear_error(write):
    rows = [{"question": "Q?", "options": ["a", "b"], "answer": n} for n in (1, 2, "2", "b")]
    path = write("m.jsonl", rows)
    with pytest.raises(DataError, match="seem to count from 1: 2 are"):
        load_questions("jsonl", path)
    questions = load_questions("jsonl", path, options={"answer_base": 1})
    assert [q.answer_index for q in questions] == [0, 1, 1, 1]
    assert len(load_questions("jsonl", path, options={"answer_base": 0}).quarantined) == 2
    with_zero = write("n.jsonl", [*rows, {**rows[0], "answer": 0}])
    assert len(load_questions("jsonl", with_zero).quarantined) == 2


@pytest.mark.parametrize(
    "options", [{"B": "b", "A": "a"}, '["a", "b"]', '{"A": "a", "B": "b"}', ["a", "b"]]
)
def test_forms_of_options(write, options):
    path = write("m.jsonl", [{"question": "Q?", "options": options, "answer": "b"}])
    assert load_questions("jsonl", path)[0].options == ("a", "b")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?"},
        {"question": "", "reference": "x"},
        {"question": "Q?", "options": ["a", "b"]},
        {"question": "Q?", "options": ["a", "b"], "answer": 2},
        {"question": "Q?", "options": ["a", "b"], "answer": -1},
        {"question": "Q?", "options": ["a", "b"], "answer": True},
        {"question": "Q?", "options": ["a", "b"], "answer": "c d"},
        {"question": "Q?", "options": ["a"], "answer": "a"},
        {"question": "Q?", "options": "a;b", "answer": "a"},
        {"question": "Q?", "options": ["a", ""], "answer": "a"},
        {"question": "Q?", "options": ["a", {"b": 1}], "answer": "a"},
        {"question": "Q?", "reference": "r", "split": "fold 1"},
        ["not", "an", "object"],
        "text",
        None,
    ],
)
def test_malformed_rows(write, row):
    questions = load_questions("jsonl", write("m.jsonl", [LONG, row]))
    assert (len(questions), len(questions.quarantined)) == (1, 1)


def test_csv_rows_of_another_width(write):
    text = 'question,reference\nQ1?,"a, with\nbreak"\nQ2?\nQ3?,b,c\n\nQ4?,d\n'
    questions = load_questions("csv", write("m.csv", text))
    assert [q.reference for q in questions] == ["a, with\nbreak", "d"]
    assert [(r.position, r.reason) for r in questions.quarantined] == [
        ("3", "1 cells in a row, 2 in the header"),
        ("4", "3 cells in a row, 2 in the header"),
    ]


def test_csv_details(write):
    long = "x" * 200_000
    data = b"\xef\xbb\xbfquestion,reference\r\nQ\x00?," + long.encode() + b"\r\nbad \xff,r\r\n"
    questions = load_questions("csv", write("m.csv", data))
    assert questions[0].question == "Q?"
    assert questions[0].reference == long
    assert questions.quarantined.reasons() == {"not valid UTF-8": 1}


@pytest.mark.parametrize("text", ["", "\n\n", "question,question\na,b\n"])
def test_csv_without_a_usable_header(write, text):
    with pytest.raises(DataError):
        load_questions("csv", write("m.csv", text))


def test_unknown_columns_and_fields(write):
    path = write("m.jsonl", [LONG])
    with pytest.raises(DataError, match="did you mean 'question'"):
        load_questions("jsonl", path, columns={"question": "questoin"})
    with pytest.raises(ConfigError, match="did you mean 'question'"):
        load_questions("jsonl", path, columns={"questoin": "question"})
    with pytest.raises(ConfigError, match="answer_base"):
        load_questions("jsonl", path, options={"answer_base": 2})
    with pytest.raises(ConfigError, match="columns"):
        load_questions("medqa", path, columns={"question": "q"})
    with pytest.raises(BlenderMedError, match="path"):
        load_questions("jsonl")


def test_damaged_parquet(write):
    with pytest.raises(DataError, match="not a readable Parquet"):
        load_questions("parquet", write("m.parquet", b"PAR1 rubbish PAR1"))


def test_group_and_subject_columns(write):
    path = write("m.jsonl", [{**LONG, "topic": "t1", "subject": "s"}, LONG])
    first, second = load_questions("jsonl", path, columns={"group": "topic"})
    assert (first.meta["group"], first.meta["subject"]) == ("t1", "s")
    assert second.meta["group"]


def test_hub_id(hub):
    calls = hub({"train": [MCQ]})
    (question,) = load_questions("jsonl", "someone/questions")
    assert (question.dataset, question.answer_index) == ("train", 1)
    assert calls == [("someone/questions", None, None)]
