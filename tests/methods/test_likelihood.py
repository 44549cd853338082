"""Methods on option log-likelihoods: by hand, against scikit-learn, with experts missing."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest

from blender_med.errors import DataError
from blender_med.records import Candidate, Question
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board, method_names
from blender_med.stages.methods.board import Board, build_boards
from blender_med.stages.methods.likelihood import conditional_logit, option_logprobs

SETTINGS = MethodSettings()


def question(name: str, split: str = "test", answer: int = 0, options: int = 2) -> Question:
    return Question(name, "exam", split, "mcq", "?", None, tuple("wxyz"[:options]), answer)


def scored(name: str, expert: str, *shares: float, **fields: Any) -> Candidate:
    logprobs = tuple(log(share) if share else -np.inf for share in shares)
    best = int(np.argmax(shares))
    values = {"choice_index": best, "option_logprobs": logprobs, "prompt_tokens": 5} | fields
    return Candidate(name, expert, 0, f"option {best}", protocol="lm_eval", **values)


def refused(name: str, expert: str) -> Candidate:
    return Candidate(name, expert, 0, "", finish_reason="prompt_too_long", protocol="lm_eval")


def board_of(questions: list[Question], candidates: list[Candidate]) -> Board:
    (board,) = build_boards(questions, candidates, [])
    return board


def answers(board: Board, method: str) -> dict[str, Any]:
    return {a.question_id: a for a in answer_board(board, SETTINGS, [method])}


def test_the_mean_of_log_probabilities_by_hand() -> None:
    # a: 0.9 / 0.1, b: 0.2 / 0.8 (given unnormalised): means of logs, sqrt(0.18) and sqrt(0.08)
    board = board_of([question("q")], [scored("q", "a", 0.9, 0.1), scored("q", "b", 0.02, 0.08)])
    answer = answers(board, "mean_logprob")["q"]
    assert (answer.choice_index, answer.text, answer.candidate) == (0, "option 0", "a#0")
    shares = 0.18**0.5, 0.08**0.5
    assert answer.confidence == pytest.approx(shares[0] / sum(shares))
    assert (answer.experts_used, answer.tokens) == (("a", "b"), 10)


def test_an_expert_is_as_sure_as_its_likelihoods_say() -> None:
    # b's are given unnormalised.
    own = [scored("q", "a", 0.9, 0.1), scored("q", "b", 0.02, 0.08), refused("r", "a")]
    board = board_of([question("q"), question("r")], own)
    assert answers(board, "expert:a")["q"].confidence == pytest.approx(0.9)
    assert answers(board, "expert:b")["q"].confidence == pytest.approx(0.8)
    assert answers(board, "expert:a")["r"].confidence is None


def test_an_option_that_no_expert_chose_can_win() -> None:
    own = [scored("q", "a", 0.5, 0.4, 0.1), scored("q", "b", 0.1, 0.4, 0.5)]
    answer = answers(board_of([question("q", options=3)], own), "mean_logprob")["q"]
    assert (answer.choice_index, answer.text, answer.candidate) == (1, "x", None)


def test_an_expert_that_could_not_read_a_question_is_left_out() -> None:
    questions = [question("q"), question("r")]
    own = [scored("q", "a", 0.3, 0.7), refused("q", "b"), refused("r", "a"), refused("r", "b")]
    board = board_of(questions, own)
    assert np.isnan(option_logprobs(board, 0)[1]).all()
    found = answers(board, "mean_logprob")
    assert found["q"].choice_index == 1
    assert found["q"].confidence == pytest.approx(0.7)
    assert (found["r"].choice_index, found["r"].confidence) == (None, None)


def test_impossible_options_and_ties() -> None:
    own = [scored("q", "a", 0.0, 1.0), scored("q", "b", 1.0, 0.0), scored("r", "a", 0.5, 0.5)]
    found = answers(board_of([question("q"), question("r")], own), "mean_logprob")
    assert found["r"].choice_index == 0
    # Each expert rules the other's option out: a tie.
    assert (found["q"].choice_index, found["q"].confidence) == (0, pytest.approx(0.5))


def test_the_logistic_regression_is_that_of_scikit_learn() -> None:
    """With two options only the difference of their features counts: the binary regression."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 2, 3))
    gold = (features[:, 1] - features[:, 0] @ np.diag([1.0, -1.0, 0.2])).sum(axis=1) > 0
    weights = conditional_logit(list(features), gold.astype(int))
    peer = LogisticRegression(fit_intercept=False, tol=1e-8).fit(
        features[:, 1] - features[:, 0], gold
    )
    # Both stop when the gradient is small.
    assert weights == pytest.approx(peer.coef_[0], abs=1e-3)


def exam(splits: list[str]) -> Board:
    """Expert ``good`` is right in 3 of 4, ``wrong`` is sure of another option."""
    questions, own = [], []
    for i, split in enumerate(splits):
        name, gold = f"q{i}", i % 3
        questions.append(question(name, split, gold, options=3))
        believed = gold if i % 4 else (gold + 1) % 3
        for expert, option in (("good", believed), ("wrong", (gold + 2) % 3)):
            own.append(scored(name, expert, *(0.8 if j == option else 0.1 for j in range(3))))
    return board_of(questions, own)


def test_stacking_learns_whom_to_trust_and_never_sees_test() -> None:
    splits = ["train"] * 12 + ["dev"] * 12 + ["test"] * 12
    found = answers(exam(splits), "stacking")
    hits = [found[f"q{i}"].choice_index == i % 3 for i in range(24, 36)]
    # What ``wrong`` is sure of is never right, so the rest of good's errors are all that is left.
    assert sum(hits) >= 9
    lone = answers(exam(["dev"] * 24 + ["test"] * 12), "stacking")
    assert [lone[f"q{i}"] for i in range(24, 36)] == [found[f"q{i}"] for i in range(24, 36)]
    assert all(0 < found[f"q{i}"].confidence <= 1 for i in range(36))


def test_the_labels_have_weights_of_their_own() -> None:
    """Experts that know nothing: the answer is the most frequent right letter."""
    golds = [1, 1, 1, 0, 2, 1, 0]
    questions = [question(f"q{i}", "dev", gold, 3) for i, gold in enumerate(golds)]
    own = [scored(f"q{i}", "a", 0.2, 0.2, 0.2) for i in range(len(golds))]
    found = answers(board_of(questions, own), "stacking")
    assert {answer.choice_index for answer in found.values()} == {1}


def test_questions_of_different_numbers_of_options() -> None:
    questions = [
        question("q", "dev", 1, 2),
        question("r", "dev", 3, 4),
        question("t", "test", 0, 3),
    ]
    own = [scored(q.id, "a", *([0.1] * (len(q.options or ()) - 1)), 0.7) for q in questions]
    found = answers(board_of(questions, own), "stacking")
    assert [found[name].choice_index for name in "qrt"] == [1, 3, 2]


def test_where_the_methods_apply() -> None:
    board = exam(["dev", "test"])
    assert {"mean_logprob", "stacking"} <= set(method_names(board, SETTINGS))
    untaught = exam(["test", "test"])
    assert "stacking" not in method_names(untaught, SETTINGS)
    with pytest.raises(DataError, match="train or dev question with a known answer"):
        answers(untaught, "stacking")
    texts = [Candidate("q", "a", 0, "A", 0)]
    generative = board_of([question("q", "dev")], texts)
    assert not {"mean_logprob", "stacking"} & set(method_names(generative, SETTINGS))
    assert answers(generative, "stacking") == {}
