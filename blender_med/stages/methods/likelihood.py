"""Methods on the option log-likelihoods of all experts (multiple choice, protocol ``lm_eval``).

Each expert's log-likelihoods are normalised over the options of a question. An expert that could
not read a question has none there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from blender_med.records import Answer
from blender_med.stages.methods import METHOD_SPECS, MethodSettings
from blender_med.stages.methods.board import Board, Floats, Ints
from blender_med.stages.methods.single import missing_split
from blender_med.stages.methods.sureness import log_softmax

_LEAST = -30.0  # nats; what is less likely is as good as impossible
Names = tuple[str, ...]

_PENALTY = 1.0  # of half the squared weights, as scikit-learn's C = 1


def mean_logprob(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """The option with the highest mean log-probability over the experts; ties to the first.

    ``confidence`` is its share of the geometric means. A question that no expert could read gets
    an answer without choice.
    """
    for index in range(len(board.questions)):
        table = option_logprobs(board, index)
        known = table[~np.isnan(table).any(axis=1)]
        scores = known.clip(_LEAST).mean(axis=0) if len(known) else None
        yield _answer(board, "mean_logprob", index, scores)


def stacking(board: Board, settings: MethodSettings, argument: str) -> Iterator[Answer]:
    """Logistic regression on the log-probabilities of all experts (Wolpert 1992, stacking).

    A conditional logit: the score of an option is a weighted sum of the experts' log-probabilities
    of it, and a number of its label (the letter, or yes, no, maybe); softmax over the options of
    the question. The weights are fitted on train and dev with an L2 penalty, never on test. An
    expert that could not read a question counts as undecided there.

    Raises:
        DataError: No train or dev question has a known right option.
    """
    experts, labels, weights = board.learned("stacking", _stacking_weights)
    for index in range(len(board.questions)):
        own = _features(board, index, experts, labels)
        yield _answer(board, "stacking", index, own @ weights if len(own) else None)


def _stacking_weights(board: Board) -> tuple[Names, Names, Floats]:
    """Experts, labels, and a weight for each of them."""
    experts, labels, fitted = board.experts, board.labels, METHOD_SPECS["stacking"].fitted
    learn = [i for i, question in enumerate(board.questions) if question.split in fitted]
    features = [_features(board, index, experts, labels) for index in learn]
    known = [k for k, index in enumerate(learn) if 0 <= board.gold[index] < len(features[k])]
    if not known:
        raise missing_split(board, "stacking")
    gold = board.gold[[learn[k] for k in known]]
    return experts, labels, conditional_logit([features[k] for k in known], gold)


def option_logprobs(board: Board, index: int, experts: Names | None = None) -> Floats:
    """Log-probability of each option by each expert, [experts, options], from its first sample.

    NaN where an expert has none for this question. ``experts`` None takes those of the board.
    """
    names = board.experts if experts is None else experts
    options = len(board.questions[index].options or ())
    table = np.full((len(names), options), np.nan)
    for row in reversed(board.rows(index)):  # the first sample of an expert comes last
        candidate = board.candidates[row]
        values = np.array(candidate.option_logprobs or (), dtype=np.float64)
        is_known = len(values) == options and np.isfinite(values.max(initial=-np.inf))
        if is_known and candidate.expert in names:
            table[names.index(candidate.expert)] = log_softmax(values)
    return table


def conditional_logit(features: list[Floats], gold: Ints) -> Floats:
    """Weights that make the right options likely, [n_features].

    Minimises the summed cross-entropy plus half the squared weights; the minimum is unique.

    Args:
        features: Of the options of each question, [options, n_features]; options may differ.
        gold: Right option of each question, [n].
    """
    from scipy.optimize import minimize

    most = max(map(len, features))
    cells = np.zeros((len(features), most, features[0].shape[1]))
    absent = np.zeros((len(features), most))
    for i, own in enumerate(features):
        cells[i, : len(own)] = own
        absent[i, len(own) :] = -np.inf
    right = cells[np.arange(len(gold)), gold]

    def loss(weights: Floats) -> tuple[float, Floats]:
        logs = log_softmax(cells @ weights + absent)
        expected = np.einsum("qo,qof->f", np.exp(logs), cells)
        value = -logs[np.arange(len(gold)), gold].sum() + _PENALTY / 2 * weights @ weights
        return float(value), expected - right.sum(axis=0) + _PENALTY * weights

    start = np.zeros(cells.shape[2])
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found


def _features(board: Board, index: int, experts: Names, labels: Names) -> Floats:
    """Log-probabilities and one-hot labels of the options, [options, experts + labels]."""
    table = option_logprobs(board, index, experts).T
    undecided = -np.log(max(1, len(table)))
    known = np.clip(np.where(np.isnan(table), undecided, table), _LEAST, 0.0)
    names = np.zeros((len(table), len(labels)))
    for option in range(len(table)):
        label = board.option_label(index, option)
        if label >= 0 and board.labels[label] in labels:
            names[option, labels.index(board.labels[label])] = 1.0
    return np.hstack([known, names])


def _answer(board: Board, method: str, index: int, scores: Floats | None) -> Answer:
    """The option with the highest score, in the words of the first candidate that chose it."""
    rows = board.rows(index)
    if scores is None:
        return board.answer(method, index, None, paid=rows)
    choice = int(scores.argmax())
    confidence = float(np.exp(log_softmax(scores)[choice]))
    voice = next((r for r in rows if board.candidates[r].choice_index == choice), None)
    text = None if voice is not None else (board.questions[index].options or ())[choice]
    return board.answer(
        method, index, voice, paid=rows, text=text, choice=choice, confidence=confidence
    )
