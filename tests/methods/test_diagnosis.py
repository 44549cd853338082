"""Headroom, experts against each other, risk-coverage, state of the candidates."""

from dataclasses import replace

import numpy as np
import pytest

from blender_med.records import Answer, Candidate, Question, Score
from blender_med.stages.comparison import Resampling, compare, diagnose
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import build_boards

SETTINGS = MethodSettings()
# rougeL of experts a and b on four questions: b is better on half of them.
VALUES = {"a": (0.5, 0.2, 0.9, 0.4), "b": (0.3, 0.6, 0.9, 0.8)}
FUSED = (0.6, 0.1, 0.9, 0.8)


def ward(picks, fused=None, tops=None):
    """Four long questions; ``best_single`` is a, ``picker`` takes the candidates of ``picks``."""
    questions = [Question(f"q{i}", "ward", "test", "long", "W?", reference="r") for i in range(4)]
    candidates, scores, answers = [], [], []
    for i, question in enumerate(questions):
        for name, values in VALUES.items():
            candidates.append(Candidate(question.id, name, 0, f"{name} {i}"))
            scores.append(Score(question.id, name, 0, "rougeL", values[i]))
        answers.append(Answer(question.id, "best_single", "", candidate="a#0"))
        answers.append(Answer(question.id, "picker", "", candidate=f"{picks[i]}#0", confidence=0.5))
        if fused:
            answers.append(Answer(question.id, "fuser", f"new {i}"))
            scores.append(Score(question.id, "fuser", 0, "rougeL", fused[i]))
    boards = build_boards(questions, candidates, scores)
    comparison = compare(boards, answers, SETTINGS, resamples=100)
    return diagnose(comparison, Resampling(100), tops or {})


def rows(diagnosis):
    return {row.method: row for row in diagnosis.headroom}


def test_headroom_of_a_choice_by_hand():
    row = rows(ward("abba"))["picker"]
    assert (row.n, row.metric) == (4, "rougeL")
    assert row.best_single == pytest.approx((0.5 + 0.2 + 0.9 + 0.4) / 4)
    assert row.oracle == pytest.approx((0.5 + 0.6 + 0.9 + 0.8) / 4)
    values = {name: part.value for name, part in row.parts.items()}
    assert values["headroom"] == pytest.approx(0.2)
    assert values["gain"] == pytest.approx(0.1)  # b is taken on question 1: +0.4 of 4
    assert values["ranker_regret"] == pytest.approx(0.1)  # b is missed on question 3
    assert values["fuser_corruption"] == 0
    assert (row.corrupted, row.repaired, row.unanimous_error) == (0, 0, None)


def test_fusing_is_measured_from_the_candidate_that_came_first():
    tops = {"fuser": {(f"q{i}", "generative"): f"{e}#0" for i, e in enumerate("abba")}}
    row = rows(ward("abba", FUSED, tops))["fuser"]
    values = {name: part.value for name, part in row.parts.items()}
    # First: 0.5, 0.6, 0.9, 0.4; fused: 0.6, 0.1, 0.9, 0.8.
    assert values["fuser_corruption"] == pytest.approx((-0.1 + 0.5 + 0 - 0.4) / 4)
    assert (row.corrupted, row.repaired) == (0.25, 0.5)
    total = values["gain"] + values["ranker_regret"] + values["fuser_corruption"]
    assert total == pytest.approx(values["headroom"])


def test_a_new_text_from_an_unknown_candidate_is_not_split():
    row = rows(ward("aaaa", FUSED))["fuser"]
    assert set(row.parts) == {"headroom", "gain"}
    assert (row.corrupted, row.repaired) == (None, None)


def test_duels_count_wins_and_what_two_gain():
    (duel,) = ward("aaaa").duels
    assert (duel.expert, duel.rival, duel.n, duel.wins, duel.ties) == ("a", "b", 4, 1, 1)
    # Oracle of the pair 0.7, the better expert (b) 0.65.
    assert duel.complementarity == pytest.approx(0.05)


def test_usage_is_the_share_of_repeated_candidates():
    usage = {(r.method, r.expert): r.share for r in ward("abbb").usage}
    assert usage["picker", "a"] == 0.25
    assert usage["picker", "b"] == 0.75
    assert usage["best_single", "b"] == 0


def test_coverage_of_a_constant_confidence_is_one_point():
    (point,) = ward("abba").coverage
    # Question 3 goes to a, though b is better: one of four answers is not the best.
    assert (point.method, point.n, point.coverage, point.risk) == ("picker", 4, 1.0, 0.25)


def exam():
    """Six questions; nobody is right on the last two, expert b answers four."""
    questions = [Question(f"q{i}", "x", "test", "mcq", "?", None, ("r", "s"), 0) for i in range(6)]
    candidates, answers = [], []
    for i, question in enumerate(questions):
        picks = {"a": 0 if i < 3 else 1, "b": 0 if i == 3 else 1}
        for name, choice in picks.items():
            if name == "a" or i < 4:
                candidates.append(Candidate(question.id, name, 0, "r", choice))
        answers.append(
            Answer(question.id, "best_single", "", candidate="a#0", choice_index=picks["a"])
        )
        answers.append(
            Answer(question.id, "majority_vote", "", candidate="a#0", choice_index=picks["a"],
                   confidence=1 - i / 10)
        )  # fmt: skip
    return questions, candidates, answers


def diagnosed(questions, candidates, answers):
    comparison = compare(build_boards(questions, candidates, []), answers, SETTINGS, resamples=100)
    return diagnose(comparison, Resampling(100), {})


def test_unanimous_error_and_risk_of_choices():
    diagnosis = diagnosed(*exam())
    row = rows(diagnosis)["majority_vote"]
    assert row.metric == "accuracy"
    assert row.unanimous_error == pytest.approx(2 / 6)
    assert row.oracle == pytest.approx(4 / 6)
    assert row.parts["ranker_regret"].value == pytest.approx(1 / 6)
    curve = [(p.coverage, p.risk) for p in diagnosis.coverage]
    assert curve[2] == (0.5, 0.0)
    assert curve[-1] == (1.0, 0.5)
    assert np.all(np.diff([c for c, _ in curve]) > 0)


def test_a_duel_needs_both_experts():
    (duel,) = diagnosed(*exam()).duels
    assert (duel.n, duel.wins, duel.ties) == (4, 3, 0)


def test_without_a_best_single_expert_there_is_no_headroom():
    questions, candidates, answers = exam()
    kept = [a for a in answers if a.method != "best_single"]
    assert diagnosed(questions, candidates, kept).headroom == []


def test_state_of_the_candidates_is_counted():
    questions, candidates, answers = exam()
    candidates[0] = replace(candidates[0], text=" ", finish_reason="length", truncated_tokens=3)
    candidates[2] = replace(candidates[2], finish_reason="prompt_too_long", choice_index=None)
    state = diagnosed(questions, candidates, answers).quality[0]
    assert (state.expert, state.candidates) == ("a", 6)
    assert (state.empty, state.cut, state.refused, state.truncated, state.unparsed) == (
        1,
        1,
        1,
        1,
        1,
    )
