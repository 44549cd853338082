"""Boards and the methods that play on them, on hand-made candidates."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_med.errors import ConfigError, DataError
from blender_med.metrics.overlap import chrf
from blender_med.records import Candidate, Question, Ranking, Score
from blender_med.stages.methods import METHODS, MethodSettings
from blender_med.stages.methods.answers import answer_board, check_method, method_names
from blender_med.stages.methods.board import build_boards
from blender_med.stages.methods.mbr import expected_utilities
from blender_med.stages.methods.ranked import ranker_confidence, top_ranked

SETTINGS = MethodSettings(seed=1)


def mcq(name, split="test", answer=0, options=("w", "x", "y", "z")):
    return Question(name, "exam", split, "mcq", f"Question {name}?", None, options, answer)


def choice(question, expert, index, sample=0, protocol="generative", logprobs=None, **fields):
    return Candidate(
        question,
        expert,
        sample,
        f"{expert} says {index}",
        index,
        logprobs,
        protocol=protocol,
        **fields,
    )


def long(name, split="test", reference="fever and cough"):
    return Question(name, "clinic", split, "long", f"Question {name}?", reference=reference)


def board_of(questions, candidates, scores=()):
    (board,) = build_boards(questions, candidates, scores)
    return board


def answers(board, name, config=SETTINGS):
    return {a.question_id: a for a in answer_board(board, config, [name])}


@pytest.fixture
def exam():
    """On dev a is right twice, b once, c never (once unparsed); one test question."""
    questions = [mcq("d1", "dev", 0), mcq("d2", "dev", 1), mcq("t", "test", 2)]
    picks = {"a": (0, 1, 3), "b": (0, 0, 2), "c": (3, None, 2)}
    candidates = [
        choice(q.id, name, picks[name][i], prompt_tokens=10, completion_tokens=2, seconds=0.5)
        for name in picks
        for i, q in enumerate(questions)
    ]
    return board_of(questions, candidates)


def test_board_groups_candidates_and_computes_correctness(exam):
    assert exam.experts == ("a", "b", "c")
    assert [[exam.candidates[r].key for r in exam.rows(i)] for i in (0, 2)] == [
        ["a#0", "b#0", "c#0"]
    ] * 2
    assert exam.scores["correct"].tolist() == [1, 1, 0, 1, 0, 0, 0, 1, 1]
    assert exam.labels == ("A", "B", "C", "D")


def test_boards_keep_protocols_tasks_and_data_sets_apart():
    questions = [mcq("m"), long("l")]
    candidates = [
        choice("m", "a", 1, protocol="lm_eval"),
        choice("m", "a", 0),
        Candidate("l", "a", 0, "text"),
    ]
    scores = [Score("m", "a", 0, "correct", 9.0), Score("l", "a", 0, "rougeL", 0.5)]
    boards = build_boards(questions, candidates, scores)
    assert [(b.dataset, b.task, b.protocol) for b in boards] == [
        ("exam", "mcq", "lm_eval"),
        ("exam", "mcq", "generative"),
        ("clinic", "long", "generative"),
    ]
    assert [b.scores["correct"].tolist() for b in boards[:2]] == [[0.0], [1.0]]
    assert boards[2].scores["rougeL"].tolist() == [0.5]
    votes = [answers(b, "majority_vote")["m"] for b in boards[:2]]
    assert [(v.choice_index, v.protocol) for v in votes] == [(1, "lm_eval"), (0, "generative")]


def test_board_with_ragged_candidates_and_words_as_labels():
    questions = [
        mcq("p", answer=2, options=("Yes", "no", "maybe")),
        mcq("q", answer=0, options=("no", "yes")),
    ]
    candidates = [choice("q", "b", 1, sample=1), choice("q", "b", 7), choice("p", "a", 1)]
    board = board_of(questions, candidates)
    assert board.labels == ("yes", "no", "maybe")
    assert board.label_numbers(board.gold).tolist() == [2, 1]
    assert board.label_numbers(np.array([-1, 7])).tolist() == [-1, -1]
    assert [board.candidates[r].sample for r in board.rows(1)] == [0, 1]
    assert board.first_sample("a").tolist() == [0, -1]


def test_board_refuses_strange_candidates():
    with pytest.raises(DataError, match="no prepared question"):
        build_boards([mcq("m")], [choice("other", "a", 0)], [])
    with pytest.raises(DataError, match="stands twice"):
        build_boards([mcq("m")], [choice("m", "a", 0), choice("m", "a", 1)], [])
    assert build_boards([mcq("m")], [], []) == []


def test_expert_repeats_its_first_sample():
    candidates = [choice("t", "a", 3, sample=1), choice("t", "a", 2), choice("u", "a", 1, sample=1)]
    board = board_of([mcq("t"), mcq("u")], candidates)
    found = answers(board, "expert:a")
    assert {q: a.candidate for q, a in found.items()} == {"t": "a#0", "u": "a#1"}
    assert (found["t"].candidate, found["t"].choice_index, found["t"].text) == (
        "a#0",
        2,
        "a says 2",
    )


def test_best_single_is_picked_on_dev_not_on_test(exam):
    found = answers(exam, "best_single")
    assert found["t"].choice_index == 3
    assert found["t"].experts_used == ("a",)
    assert (found["t"].tokens, found["t"].seconds) == (12, 0.5)


def test_methods_that_learn_need_a_dev_answer():
    board = board_of([mcq("t")], [choice("t", "a", 0)])
    for name in ("best_single", "weighted_vote", "constant"):
        assert name not in method_names(board, SETTINGS)
        with pytest.raises(DataError, match="splits"):
            answers(board, name)


def test_random_depends_on_seed_and_question_only(exam):
    many = [mcq(f"q{i}") for i in range(400)]
    candidates = [choice(q.id, name, 0) for q in many for name in "abc"]
    board = board_of(many, candidates)
    picked = answers(board, "random")
    assert picked == answers(board, "random")
    counts = Counter(a.candidate for a in picked.values())
    assert all(95 <= counts[f"{name}#0"] <= 175 for name in "abc")
    alone = board_of(many[:1], candidates[:3])
    assert answers(alone, "random")["q0"] == picked["q0"]
    assert answers(board, "random", MethodSettings(seed=2)) != picked


def test_constant_says_the_most_frequent_label_of_train_and_dev():
    yes_no = [
        mcq("a", "train", 1, ("yes", "no")),
        mcq("b", "dev", 0, ("no", "yes")),
        mcq("c", "dev", 0, ("yes", "no")),
        mcq("t", "test", 0, ("no", "yes")),
        mcq("u", "test", 0, ("yes", "maybe")),
    ]
    board = board_of(yes_no, [choice(q.id, "e", 0) for q in yes_no])
    found = answers(board, "constant")
    assert (found["t"].choice_index, found["t"].text) == (0, "no")
    assert (found["u"].choice_index, found["u"].tokens, found["u"].experts_used) == (None, 0, ())


def test_majority_vote(exam):
    found = answers(exam, "majority_vote")
    assert found["d1"].choice_index == 0
    assert found["d1"].confidence == pytest.approx(2 / 3)
    assert found["t"].choice_index == 2
    assert found["t"].candidate == "b#0"
    assert found["t"].tokens == 36


def test_majority_ties_go_to_likelihood_then_to_the_lower_index():
    by_logprob = [
        choice("t", "a", 3, logprobs=(-9.0, -9.0, -9.0, -1.0)),
        choice("t", "b", 1, logprobs=(-3.0, -1.0, -3.0, -1.5)),
    ]
    assert answers(board_of([mcq("t")], by_logprob), "majority_vote")["t"].choice_index == 3
    plain = [choice("t", "a", 3), choice("t", "b", 1)]
    assert answers(board_of([mcq("t")], plain), "majority_vote")["t"].choice_index == 1
    broken = [choice("t", "a", 3, logprobs=(-math.inf,) * 4), choice("t", "b", 1, logprobs=(-1.0,))]
    assert answers(board_of([mcq("t")], broken), "majority_vote")["t"].choice_index == 1


@pytest.mark.parametrize("name", ["majority_vote", "self_consistency:a"])
def test_unparsed_votes_are_ignored_and_no_vote_gives_no_choice(name):
    questions = [mcq("t"), mcq("u")]
    candidates = [choice("t", "a", None), choice("t", "a", 2, sample=1)]
    candidates += [choice("u", "a", None), choice("u", "a", None, sample=1)]
    found = answers(board_of(questions, candidates), name)
    assert (found["t"].choice_index, found["t"].confidence) == (2, 0.5)
    assert (found["u"].choice_index, found["u"].candidate, found["u"].text) == (None, None, "")


def test_weighted_vote_by_hand(exam):
    # Dev accuracies 2/2, 1/2, 0/2, smoothed to 3/4, 2/4, 1/4; times K - 1 = 3 odds 9, 3, 1.
    # On t: a says D with log 9; b and c say C with log 3 + log 1. D wins: 9 / (9 + 3 + 1 + 1).
    answer = answers(exam, "weighted_vote")["t"]
    assert answer.choice_index == 3
    assert answer.confidence == pytest.approx(9 / 14)
    assert answers(exam, "majority_vote")["t"].choice_index == 2


def test_weighted_vote_of_one_expert_is_the_expert():
    questions = [mcq("d", "dev", 0), mcq("t")]
    board = board_of(questions, [choice("d", "a", 3), choice("t", "a", 2)])
    assert answers(board, "weighted_vote")["t"].choice_index == 2


def test_self_consistency_needs_more_than_one_sample(exam):
    assert not [n for n in method_names(exam, SETTINGS) if n.startswith("self_consistency")]
    candidates = [choice("t", "a", i, sample=s) for s, i in enumerate((0, 1, 1))] + [
        choice("t", "b", 0)
    ]
    board = board_of([mcq("t")], candidates)
    assert "self_consistency:a" in method_names(board, SETTINGS)
    assert "self_consistency:b" not in method_names(board, SETTINGS)
    # One sample alone, whatever its number, is not consistent with itself.
    single = board_of([mcq("t")], [choice("t", "a", 0, sample=1)])
    assert "self_consistency:a" not in method_names(single, SETTINGS)
    answer = answers(board, "self_consistency:a")["t"]
    assert (answer.choice_index, answer.experts_used) == (1, ("a",))


def test_prompt_of_an_expert_is_paid_once():
    candidates = [
        choice("t", "a", 0, sample=s, prompt_tokens=100, completion_tokens=5) for s in range(3)
    ]
    board = board_of([mcq("t")], candidates)
    assert answers(board, "majority_vote")["t"].tokens == 115


def test_oracle_of_choices_is_right_if_any_is(exam):
    found = answers(exam, "oracle")
    assert [found[q].choice_index for q in ("d1", "d2", "t")] == [0, 1, 2]
    assert exam.split_indices("test").tolist() == [2]


@pytest.fixture
def clinic():
    questions = [long("d", "dev"), long("t"), long("none", reference=None)]
    texts = {"a": ("fever", "fever and cough", "x"), "b": ("fever and", "cough", "y")}
    candidates = [
        Candidate(q.id, name, 0, texts[name][i]) for i, q in enumerate(questions) for name in texts
    ]
    values = {("d", "a"): 0.4, ("d", "b"): 0.6, ("t", "a"): 0.9, ("t", "b"): 0.2}
    scores = [Score(q, e, 0, "rougeL", v) for (q, e), v in values.items()]
    scores += [Score(q, e, 0, "bleu", -v) for (q, e), v in values.items()]
    return board_of(questions, candidates, [*scores, Score("t", "fuser", 0, "rougeL", 0.7)])


def test_long_methods(clinic):
    assert answers(clinic, "best_single")["t"].candidate == "b#0"
    assert answers(clinic, "oracle")["t"].candidate == "a#0"
    assert answers(clinic, "oracle:bleu")["t"].candidate == "b#0"
    assert "none" not in answers(clinic, "oracle")
    assert clinic.answer_scores == {("fuser", "t", "rougeL"): 0.7}
    assert method_names(clinic, SETTINGS) == [
        "expert:a",
        "expert:b",
        "best_single",
        "random",
        "mbr",
        "oracle",
        "oracle:bleu",
    ]


def test_a_metric_that_was_not_scored_is_named(clinic):
    with pytest.raises(DataError, match="rougeL, bleu"):
        answers(clinic, "oracle:chrf")


def test_methods_of_the_other_task_are_passed_over(clinic, exam):
    assert list(answer_board(clinic, SETTINGS, ["majority_vote", "expert:nobody"])) == []
    assert list(answer_board(exam, SETTINGS, ["mbr"])) == []
    with pytest.raises(ConfigError, match="majority_vote"):
        list(answer_board(exam, SETTINGS, ["majority_votes"]))


def test_all_methods_run_on_what_they_apply_to(clinic, exam):
    boards = clinic, exam, replace(exam, protocol="lm_eval")
    for board in boards:
        names = method_names(board, SETTINGS)
        found = {a.method for a in answer_board(board, SETTINGS)}
        assert found == set(names)
    bases = {n.partition(":")[0] for b in boards for n in method_names(b, SETTINGS)}
    assert bases == set(METHODS) - {"self_consistency"}


def test_mbr_takes_the_consensus():
    texts = ["fever and cough", "fever and a cough", "broken leg"]
    board = board_of([long("t")], [Candidate("t", "a", s, text) for s, text in enumerate(texts)])
    assert answers(board, "mbr")["t"].text in texts[:2]


@pytest.mark.parametrize("texts", [["only"], ["same", "same"], ["", ""], ["", "", "x"]])
def test_mbr_of_degenerate_candidates_takes_the_first_best(texts):
    board = board_of([long("t")], [Candidate("t", "a", s, text) for s, text in enumerate(texts)])
    assert answers(board, "mbr")["t"].candidate == "a#0"


@given(st.lists(st.sampled_from(["ab c", "abc", "bcd", "", "xyz"]), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_expected_utility_equals_the_mean_over_the_others(texts):
    expected = [
        np.mean([chrf([h], [r])[0] for j, r in enumerate(texts) if j != i])
        for i, h in enumerate(texts)
    ]
    assert expected_utilities(texts, chrf) == pytest.approx(expected)


@pytest.mark.parametrize("utility", ["length", "correct"])
def test_mbr_refuses_a_utility_without_direction(clinic, utility):
    with pytest.raises(ConfigError, match="rouge1"):
        answers(clinic, "mbr", MethodSettings(mbr_utility=utility))


def test_top_ranked_follows_rank_one(clinic):
    keys = ("a#0", "b#0")
    rankings = [
        Ranking("t", "pairranker", keys, (0.1, 0.9), (2, 1)),
        Ranking("d", "pairranker", keys, (0.5, 0.5), (1, 1)),
        Ranking("elsewhere", "pairranker", keys, (1, 0), (1, 2)),
    ]
    found = {a.question_id: a for a in top_ranked(clinic, rankings)}
    assert {q: a.candidate for q, a in found.items()} == {"t": "b#0", "d": "a#0"}
    assert found["t"].experts_used == ("a", "b")
    with pytest.raises(DataError, match="does not exist"):
        list(top_ranked(clinic, [Ranking("t", "pairranker", ("z#0",), (1.0,), (1,))]))


def ranked_clinic(splits, seed=0):
    """Three long answers a question; the scores of the ranker are the labels with noise."""
    draw = np.random.default_rng(seed)
    questions = [long(f"q{i}", split) for i, split in enumerate(splits)]
    candidates, scores, rankings = [], [], []
    keys = ("a#0", "b#0", "c#0")
    for q in questions:
        labels = draw.normal(size=3)
        seen = labels + draw.normal(size=3)
        ranks = tuple(1 + int((seen > s).sum()) for s in seen)
        rankings.append(Ranking(q.id, "r", keys, tuple(seen.tolist()), ranks))
        for name, label in zip("abc", labels, strict=True):
            candidates.append(Candidate(q.id, name, 0, f"{name} {q.id}"))
            scores.append(Score(q.id, name, 0, "rougeL", float(label)))
    return board_of(questions, candidates, scores), rankings


def test_confidence_of_a_ranker_is_learned_on_dev_alone():
    splits = ["dev"] * 60 + ["test"] * 60
    board, rankings = ranked_clinic(splits)
    found = answer_board(board, SETTINGS, ["r"], {"r": rankings})
    confidences = {a.question_id: a.confidence for a in found}
    assert len(confidences) == 120
    assert all(0 < c < 1 for c in confidences.values())
    assert max(confidences.values()) - min(confidences.values()) > 0.2
    # Other labels of the test questions change nothing; other labels on dev do.
    for split, is_same in (("test", True), ("dev", False)):
        values = board.scores["rougeL"].copy()
        for index in board.split_indices(split):
            rows = board.rows(int(index))
            values[rows.start : rows.stop] *= -1
        changed = replace(board, scores={"rougeL": values})
        again = answer_board(changed, SETTINGS, ["r"], {"r": rankings})
        same = {a.question_id: a.confidence for a in again} == confidences
        assert same is is_same


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["test"] * 50, "0 labelled questions"),
        (["dev"] * 20 + ["test"] * 50, "20 labelled questions"),
    ],
)
def test_without_enough_dev_questions_there_is_no_confidence_and_the_log_says_so(
    splits, message, caplog
):
    caplog.set_level("INFO", logger="blender_med")
    board, rankings = ranked_clinic(splits)
    found = list(answer_board(board, SETTINGS, ["r"], {"r": rankings}))
    assert {a.confidence for a in found} == {None}
    assert f"r has no confidence on {board.name}: dev has {message}" in caplog.text


def test_without_labels_there_is_no_confidence(caplog):
    caplog.set_level("INFO", logger="blender_med")
    board, rankings = ranked_clinic(["dev"] * 60)
    blind = replace(board, scores={})
    assert ranker_confidence(blind, "r", rankings, "rougeL") is None
    nan = replace(board, scores={"rougeL": np.full(180, np.nan)})
    assert ranker_confidence(nan, "r", rankings, "rougeL") is None
    assert caplog.text.count("dev has 0 labelled questions") == 2


def test_the_best_is_shared_by_ties_and_among_wrong_choices_there_is_none(clinic, exam):
    tied = replace(clinic, scores={"rougeL": np.array([0.5, 0.5, 0.1, 0.2, 0.3, np.nan])})
    found = [[tied.is_best("rougeL", i, row) for row in tied.rows(i)] for i in range(3)]
    assert found == [[True, True], [False, True], [None, None]]
    assert tied.is_best("bleu", 0, 0) is None
    # d1: a and b are right; without them nobody is.
    assert [exam.is_best("correct", 0, row) for row in exam.rows(0)] == [True, True, False]
    wrong = replace(exam, scores={"correct": np.zeros(9)})
    assert [wrong.is_best("correct", 0, row) for row in wrong.rows(0)] == [False] * 3


def test_candidates_of_one_answer_are_no_rivals(exam):
    """a and b choose the same option of d1: only c stands against it."""
    rankings = [Ranking("d1", "r", ("a#0", "b#0", "c#0"), (2.0, 1.9, 0.0), (1, 2, 3))]
    seen = []

    def spy(scores):
        seen.append(scores)
        return 0.5

    [answer] = top_ranked(exam, rankings, spy)
    assert seen == [[2.0, 0.0]]
    assert answer.confidence == 0.5


@pytest.mark.parametrize("name", ["mbr", "oracle", "oracle:bleu", "expert:a", "self_consistency:a"])
def test_known_method_names_pass(name):
    assert check_method(name, experts=["a"], metrics=["rougeL", "bleu", "length"]) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mbrr", "did you mean 'mbr'"),
        ("mbr:chrf", "takes no argument"),
        ("expert", "needs the name of one expert"),
        ("expert:smol", "did you mean 'smoll'"),
        ("oracle:length", "needs the name of one metric"),
        ("oracle:", "needs the name of one metric"),
    ],
)
def test_wrong_method_names_are_refused(name, hint):
    with pytest.raises(ConfigError, match=hint):
        check_method(name, experts=["smoll"], metrics=["rougeL", "length"])
