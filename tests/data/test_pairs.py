"""Scored candidates become examples; what teaches nothing is left out and counted."""

import numpy as np
import pytest

from blender_med.data import pairs
from blender_med.data.pairs import LabelledExamples, labelled_examples, source_text
from blender_med.errors import DataError
from blender_med.records import Candidate, Question, Score

NAN, INF = float("nan"), float("inf")


def _question(name: str = "q") -> Question:
    return Question(name, "set", "train", "long", f"What is {name}?", reference="r")


def _built(
    texts: dict[str, list[str]], values: dict[str, list[dict[str, float]]], metrics: list[str]
) -> LabelledExamples:
    candidates = [Candidate(q, "e", i, t) for q, own in texts.items() for i, t in enumerate(own)]
    scores = [
        Score(q, "e", i, metric, value)
        for q, rows in values.items()
        for i, row in enumerate(rows)
        for metric, value in row.items()
    ]
    return labelled_examples(map(_question, texts), iter(candidates), iter(scores), metrics)


def test_labels_stand_in_the_order_of_candidates_and_metrics() -> None:
    rows = [{"a": 0.1, "b": 3.0, "c": 9.0}, {"b": 1.0, "a": 0.2}]
    [example] = _built({"q": ["x", "y"]}, {"q": rows}, ["b", "a"]).examples
    assert example.candidates == ("x", "y")
    assert example.labels.tolist() == [[3.0, 0.1], [1.0, 0.2]]
    assert (example.question_id, example.source) == ("q", "What is q?")
    assert example.reference == "r"


@pytest.mark.parametrize("bad", [{"a": NAN}, {"a": INF}, {"a": -INF}, {}])
def test_a_candidate_without_a_finite_label_is_left_out_and_counted(bad: dict) -> None:
    built = _built({"q": ["x", "y", "z"]}, {"q": [{"a": 1.0}, bad, {"a": 2.0}]}, ["a"])
    assert built.examples[0].candidates == ("x", "z")
    assert built.dropped == {pairs.NO_LABEL: 1}


def test_one_missing_task_is_enough_to_leave_a_candidate_out() -> None:
    rows = [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": NAN}, {"a": 3.0, "b": 0.0}]
    [example] = _built({"q": ["x", "y", "z"]}, {"q": rows}, ["a", "b"]).examples
    assert example.candidates == ("x", "z")


def test_questions_that_teach_nothing_are_counted_by_reason() -> None:
    texts = {"equal": ["x", "y"], "one": ["x"], "same": ["x", "x"], "none": [], "nan": ["x", "y"]}
    values = {
        "equal": [{"a": 1.0}, {"a": 1.0}],
        "one": [{"a": 1.0}],
        "same": [{"a": 1.0}, {"a": 2.0}],
        "nan": [{"a": NAN}, {"a": NAN}],
    }
    built = _built(texts, values, ["a"])
    assert built.examples == []
    assert built.dropped == {
        pairs.EQUAL_LABELS: 1,
        pairs.ONE_CANDIDATE: 2,
        pairs.NO_CANDIDATES: 2,
        pairs.NO_LABEL: 2,
    }


def test_labels_that_differ_in_one_task_only_are_kept() -> None:
    rows = [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}]
    assert len(_built({"q": ["x", "y"]}, {"q": rows}, ["a", "b"]).examples) == 1


def test_equal_texts_count_once_with_the_first_labels() -> None:
    rows = [{"a": 1.0}, {"a": 2.0}, {"a": 5.0}]
    [example] = _built({"q": ["x", "y", "x"]}, {"q": rows}, ["a"]).examples
    assert example.candidates == ("x", "y")
    assert np.array_equal(example.labels, [[1.0], [2.0]])


def test_examples_follow_the_questions_and_others_are_passed_over() -> None:
    candidates = [Candidate(q, "e", i, f"{i}") for q in ("b", "a", "other") for i in (0, 1)]
    scores = [Score(c.question_id, "e", c.sample, "m", float(c.sample)) for c in candidates]
    built = labelled_examples([_question("a"), _question("b")], candidates, scores, ["m"])
    assert [example.question_id for example in built.examples] == ["a", "b"]


def test_a_metric_that_was_never_scored_names_the_others() -> None:
    with pytest.raises(DataError, match=r"'bleu'.*label by: rougeL"):
        _built({"q": ["x", "y"]}, {"q": [{"rougeL": 1.0}, {"rougeL": 2.0}]}, ["bleu"])


def test_no_question_gives_no_example() -> None:
    assert labelled_examples([], [], [], ["a"]) == ([], {})


def test_source_holds_context_question_and_options_in_this_order() -> None:
    question = Question(
        "q", "d", "dev", "mcq", "Which?", context="An abstract.", options=("u", "v")
    )
    assert source_text(question) == "An abstract.\nWhich?\nA. u\nB. v"
    assert source_text(_question()) == "What is q?"
