import math

from blender_med.records import (
    Answer,
    Candidate,
    FusedAnswer,
    FusedChoice,
    HiddenState,
    Passage,
    Question,
    Ranking,
    Score,
)
from blender_med.store.tables import arrow_schema, from_table, to_table

QUESTION = Question("q", "d", "test", "mcq", "?", None, ("a", "b"), 1, None, {"subject": "x"})
RECORDS = [
    QUESTION,
    Question("q2", "d", "dev", "long", "?", context="c", reference="r"),
    Passage("p", "d", "train", "t", "body", None, {"pmid": "1"}),
    Candidate("q", "e", 2, "text", 1, (-1.0, -0.5), -0.5),
    Candidate("q", "e", 0, ""),
    Score("q", "e", 0, "rougeL", 0.25),
    Ranking("q", "m", ("e#0", "e#1"), (0.1, 0.2), (2, 1), ((0.0, -1.0), (1.0, 0.0)), 2),
    Ranking("q", "m", ("e#0",), (0.0,), (1,)),
    Answer("q", "best_single", "t", 0, 0.5, ("e",), 10, 0.1, "e#0"),
    Answer("q", "genfuser", "new", scores={"rougeL": 0.25, "length": 3.0}, support="[]"),
    FusedAnswer("q", "genfuser", "new", "fused", None, ("e#0", "e#1"), "e#0", ("bm25",)),
    FusedAnswer("q", "g-guarded", "", "no_candidate_text", "e#0", (), "e#0", (), "candidate", 0.0),
    FusedChoice(
        "q", "best", "fused", 1, (0.25, 0.75), ("a", "b"), (1.0, 0.0), ("a",), (1, 0), 9, 0.5
    ),
    HiddenState("q", "e", "option:0", 3, 9),
]


def test_every_record_survives_arrow() -> None:
    for record in RECORDS:
        table = to_table([record, record], type(record))
        assert table.schema == arrow_schema(type(record))
        assert list(from_table(table, type(record))) == [record, record]


def test_empty_table_has_the_schema() -> None:
    assert to_table([], Candidate).num_rows == 0


def test_non_finite_values_survive() -> None:
    score = Score("q", "e", 0, "m", float("nan"))
    (back,) = from_table(to_table([score], Score), Score)
    assert math.isnan(back.value)


def test_keys() -> None:
    assert Candidate("q", "smollm2", 3, "").key == Score("q", "smollm2", 3, "m", 0.0).key
