"""Votes over the choices of the candidates (multiple choice).

Every candidate with a parsed choice has a vote; unparsed ones have none. Where no vote is left,
the answer has no choice. Ties go to the option with the higher sum of normalised log-likelihoods
where candidates have option log-likelihoods, then to the lower index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import exp, isfinite, log

from blender_med.records import Answer, Candidate
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import Board
from blender_med.stages.methods.single import missing_split

_UNSEEN = 0.5  # smoothed accuracy of an expert without a dev question


def majority_vote(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """The option with most votes over all experts and samples.

    ``confidence`` is its share of the candidates, unparsed ones included.
    """
    for index in range(len(board.questions)):
        yield _plurality(board, "majority_vote", index, board.rows(index))


def self_consistency(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """Majority over the samples of one expert (Wang et al. 2023, self-consistency)."""
    for index in range(len(board.questions)):
        rows = [r for r in board.rows(index) if board.candidates[r].expert == argument]
        if rows:
            yield _plurality(board, f"self_consistency:{argument}", index, rows)


def weighted_vote(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """The option with the largest sum of weights of the experts that chose it.

    The weight of an expert with dev accuracy p over questions with K options is
    log(p (K - 1) / (1 - p)): the log-odds for K = 2, 0 at chance; it is the optimal vote of
    independent experts (Nitzan and Paroush 1982, extended to K alternatives). p is smoothed by
    one right and one wrong answer. ``confidence`` is the posterior of the option in that model.

    Raises:
        DataError: No dev question has a known right option.
    """
    known = board.learned("weighted_vote", _smoothed_accuracies)
    accuracies = {name: known.get(name, _UNSEEN) for name in board.experts}
    for index, question in enumerate(board.questions):
        others = max(len(question.options or ()) - 1, 1)
        weights = {name: log(p * others / (1 - p)) for name, p in accuracies.items()}
        votes: dict[int, float] = defaultdict(float)
        rows = board.rows(index)
        for candidate in _voters(board, rows):
            votes[_choice(candidate)] += weights[candidate.expert]
        posterior = {
            option: exp(min(votes.get(option, 0.0), 700.0)) for option in range(others + 1)
        }
        winner = _winner(votes, [board.candidates[r] for r in rows])
        confidence = (
            None if winner is None else posterior.get(winner, 0.0) / sum(posterior.values())
        )
        yield _vote_answer(board, "weighted_vote", index, rows, winner, confidence)


def _smoothed_accuracies(board: Board) -> dict[str, float]:
    means = {name: board.mean_score(name, "correct", "dev") for name in board.experts}
    if not any(count for _, count in means.values()):
        raise missing_split(board, "weighted_vote")
    return {
        name: ((mean * count if count else 0.0) + 1) / (count + 2)
        for name, (mean, count) in means.items()
    }


def _plurality(board: Board, method: str, index: int, rows: Sequence[int]) -> Answer:
    votes: dict[int, float] = defaultdict(float)
    for candidate in _voters(board, rows):
        votes[_choice(candidate)] += 1.0
    winner = _winner(votes, [board.candidates[r] for r in rows])
    confidence = None if winner is None else votes[winner] / len(rows)
    return _vote_answer(board, method, index, rows, winner, confidence)


def _voters(board: Board, rows: Sequence[int]) -> list[Candidate]:
    return [c for c in (board.candidates[r] for r in rows) if c.choice_index is not None]


def _choice(candidate: Candidate) -> int:
    return -1 if candidate.choice_index is None else candidate.choice_index


def _winner(votes: dict[int, float], candidates: Sequence[Candidate]) -> int | None:
    """Option with the highest sum; None where there is no vote. Ties as the module says."""
    if not votes:
        return None
    most = max(votes.values())
    tied = sorted(option for option, votes_for in votes.items() if votes_for >= most - 1e-12)
    if len(tied) == 1:
        return tied[0]
    return max(tied, key=lambda option: (_log_likelihood(option, candidates), -option))


def _log_likelihood(option: int, candidates: Sequence[Candidate]) -> float:
    """Sum over the candidates of the option's log-softmax, in nats; 0.0 where none has any."""
    return sum(
        _log_softmax(candidate.option_logprobs, option)
        for candidate in candidates
        if candidate.option_logprobs and option < len(candidate.option_logprobs)
    )


def _log_softmax(logprobs: Sequence[float], option: int) -> float:
    highest = max(logprobs)
    if not isfinite(highest):
        return 0.0
    return logprobs[option] - highest - log(sum(exp(value - highest) for value in logprobs))


def _vote_answer(
    board: Board,
    method: str,
    index: int,
    rows: Sequence[int],
    winner: int | None,
    confidence: float | None,
) -> Answer:
    """The first candidate that chose the winner speaks for it; without one, an empty answer."""
    voice = next((r for r in rows if board.candidates[r].choice_index == winner), None)
    row = None if winner is None else voice
    return board.answer(method, index, row, paid=rows, confidence=confidence)
