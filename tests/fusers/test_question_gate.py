"""The gate of questions: what it learns, its weights, its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blender_med.errors import DataError
from blender_med.fusers.question_gate import QuestionGate, fit_question_gate, is_question_gate

EXPERTS = ("liver", "heart", "kidney")


def material(questions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Expert i is better by the i-th number of the embedding; every question has its own level."""
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=(questions, 8))
    level = draws.normal(size=(questions, 1))
    return vectors, level + vectors[:, :3] + 0.1 * draws.normal(size=(questions, 3))


def fitted(vectors: np.ndarray, scores: np.ndarray) -> QuestionGate:
    return fit_question_gate(vectors, scores, EXPERTS, question_encoder="e", label="rougeL")


def test_it_learns_who_is_better_on_which_question() -> None:
    gate = fitted(*material(200))
    vectors, scores = material(100, seed=1)
    expected = gate.expected(vectors)
    np.testing.assert_allclose(expected.sum(axis=1), 0.0, atol=1e-9)
    wanted = vectors[:, :3] - vectors[:, :3].mean(axis=1, keepdims=True)
    assert np.abs(expected - wanted).max() < 0.2
    weights = gate.weights(vectors)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (weights.argmax(axis=1) == scores.argmax(axis=1)).mean() > 0.9


def test_where_questions_tell_nothing_the_best_on_average_is_chosen() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(300, 8))
    scores = draws.normal(size=(300, 3)) + np.array([0.0, 1.0, 0.0])
    gate = fitted(vectors, scores)
    assert (gate.weights(draws.normal(size=(50, 8))).argmax(axis=1) == 1).all()


def test_questions_without_all_scores_are_left_out() -> None:
    vectors, scores = material(60)
    some = scores.copy()
    some[30:, 2] = np.nan
    np.testing.assert_allclose(
        fitted(vectors, some).weight, fitted(vectors[:30], scores[:30]).weight
    )
    with pytest.raises(DataError, match="only 19 train questions have a score of every expert"):
        fitted(vectors[:19], scores[:19])
    with pytest.raises(DataError, match="at least two experts"):
        fit_question_gate(vectors, scores[:, :1], ["a"], question_encoder="e", label="rougeL")


def test_the_deviation_is_that_of_questions_it_has_not_seen() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(120, 100))  # nearly as many numbers as questions
    scores = draws.normal(size=(120, 3)) + vectors[:, :3]
    gate = fitted(vectors[:60], scores[:60])
    wanted = scores[60:] - scores[60:].mean(axis=1, keepdims=True)
    rest = np.sqrt(np.square(gate.expected(vectors[60:]) - wanted).mean())
    assert 0.6 < gate.deviation / rest < 1.6
    with pytest.raises(DataError, match="embeddings of 100 numbers"):
        gate.weights(vectors[:, :8])


def test_experts_that_are_always_equal_share_the_weight() -> None:
    vectors, _ = material(40)
    gate = fitted(vectors, np.ones((40, 3)))
    np.testing.assert_allclose(gate.weights(vectors), 1 / 3)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    vectors, scores = material(50)
    gate = fitted(vectors, scores)
    assert not is_question_gate(tmp_path)
    gate.save_pretrained(tmp_path)
    assert is_question_gate(tmp_path)
    again = QuestionGate.from_pretrained(tmp_path)
    assert (again.experts, again.question_encoder, again.label) == (EXPERTS, "e", "rougeL")
    np.testing.assert_array_equal(again.weights(vectors), gate.weights(vectors))


def test_damaged_gates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no gate can be read here"):
        QuestionGate.from_pretrained(tmp_path)
    fitted(*material(50)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"experts": ["one"]}))
    with pytest.raises(DataError, match="do not fit its experts"):
        QuestionGate.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="no gate can be read here"):
        QuestionGate.from_pretrained(tmp_path)
