"""Training of the pairwise ranker: which pairs of candidates are drawn, and what they cost.

Labels are metric values, higher is better. The losses are those of llm-blender 0.0.2, whose
training script takes ``instructgpt``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import DataError

if TYPE_CHECKING:
    import torch

    PairLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

IndexPairs = list[tuple[int, int]]


def instructgpt(
    left: torch.Tensor, right: torch.Tensor, left_labels: torch.Tensor, right_labels: torch.Tensor
) -> torch.Tensor:
    """Mean of -log sigmoid(sign(delta) (left - right)), delta = left label - right label.

    Ouyang et al. 2022, equation 1. A tie has no gradient and counts log 2.

    Args:
        left: Predicted scores of the first candidates, [pairs, n_tasks].
        right: Of the second ones; the same shape.
        left_labels: Metric values of the first candidates; the same shape.
        right_labels: Of the second ones; the same shape.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid((left_labels - right_labels).sign() * (left - right)).mean()


def bce(
    left: torch.Tensor, right: torch.Tensor, left_labels: torch.Tensor, right_labels: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy of each side against "is better"; a tie is "no" on both sides.

    Arguments as for :func:`instructgpt`.
    """
    delta = left_labels - right_labels
    return _binary(left, right, delta > 0, delta < 0)


def mse(
    left: torch.Tensor, right: torch.Tensor, left_labels: torch.Tensor, right_labels: torch.Tensor
) -> torch.Tensor:
    """Squared errors of both sides less twice the mean product of predicted and true difference.

    The product rewards predicted differences of the right sign, so the loss can be negative.
    Arguments as for :func:`instructgpt`.
    """
    errors = (left - left_labels).square().mean() + (right - right_labels).square().mean()
    return errors - 2 * ((left - right) * (left_labels - right_labels)).mean()


def open_instruct_bce(
    left: torch.Tensor, right: torch.Tensor, left_labels: torch.Tensor, right_labels: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy of each side against its own label, which is 0 (bad) or 1 (good).

    Arguments as for :func:`instructgpt`.

    Raises:
        DataError: A label is neither 0 nor 1.
    """
    for labels in (left_labels, right_labels):
        other = labels[(labels != 0) & (labels != 1)]
        if other.numel():
            fix = "use labels 0 and 1, or loss_type instructgpt"
            problem = "open_instruct_BCE takes the labels 0 and 1 only"
            raise DataError(problem, value=float(other[0]), fix=fix)
    return _binary(left, right, left_labels == 1, right_labels == 1)


def _binary(
    left: torch.Tensor, right: torch.Tensor, left_is_good: torch.Tensor, right_is_good: torch.Tensor
) -> torch.Tensor:
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    left_loss = cross_entropy(left, left_is_good.to(left.dtype))
    return (left_loss + cross_entropy(right, right_is_good.to(right.dtype))) / 2


PAIR_LOSSES: dict[str, PairLoss] = {
    "instructgpt": instructgpt,
    "BCE": bce,
    "MSE": mse,
    "open_instruct_BCE": open_instruct_bce,
}


def swap_consistency_loss(logits: torch.Tensor, swapped: torch.Tensor) -> torch.Tensor:
    """Mean of (M_ij + M_ji)^2, which is 0 where a verdict does not depend on the order.

    Args:
        logits: M_ij of pairs in one order, [pairs].
        swapped: M_ji of the same pairs in the other order, [pairs].
    """
    return (logits + swapped).square().mean()


def sample_pairs(
    labels: NDArray[np.float64],
    candidates: Sequence[str],
    *,
    mode: str,
    num_pos: int,
    num_neg: int,
    ratio: float,
    rng: np.random.Generator,
) -> IndexPairs:
    """Draw the pairs of one question that a training step compares.

    Of identical candidates the first stands for all. In each pair a coin decides who is first.

    Args:
        labels: Metric values, [n, n_tasks]; their mean over the tasks sorts the candidates.
        candidates: Texts, [n].
        mode: One of ``SAMPLING_MODES``.
        num_pos: With ``num_neg``: ``all_pair`` and ``top_bottom`` draw at most the smaller of
            both.
        num_neg: See ``num_pos``.
        ratio: Pairs per candidate that ``random`` draws; ``uniform`` compares neighbours
            int(1 / ratio) places apart.
        rng: Source of chance.

    Returns:
        Positions (first, second) in ``candidates``, never a candidate with itself; empty where
        fewer than two candidates differ.
    """
    first = {text: i for i, text in reversed(list(enumerate(candidates)))}
    distinct = np.array(sorted(first.values()))
    if len(distinct) < 2:
        return []
    best_first = distinct[np.argsort(-labels[distinct].mean(axis=1), kind="stable")]
    drawn = SAMPLING_MODES[mode](best_first, min(num_pos, num_neg), ratio, rng)
    return [(j, i) if rng.random() < 0.5 else (i, j) for i, j in drawn]


def _all_pair(
    best_first: NDArray[np.intp], most: int, ratio: float, rng: np.random.Generator
) -> IndexPairs:
    pairs = [(int(i), int(j)) for i, j in combinations(best_first, 2)]
    return [pairs[k] for k in rng.permutation(len(pairs))[:most]]


def _top_bottom(
    best_first: NDArray[np.intp], most: int, ratio: float, rng: np.random.Generator
) -> IndexPairs:
    count = min(most, len(best_first) - 1)
    return _matched(best_first[:count], best_first[-count:])


def _uniform(
    best_first: NDArray[np.intp], most: int, ratio: float, rng: np.random.Generator
) -> IndexPairs:
    step = min(max(1, int(1 / ratio)), len(best_first) - 1)
    return _matched(best_first[:-step:step], best_first[step::step])


def _random(
    best_first: NDArray[np.intp], most: int, ratio: float, rng: np.random.Generator
) -> IndexPairs:
    size = len(best_first)
    left = rng.integers(size, size=max(1, int(size * ratio)))
    right = (left + rng.integers(1, size, size=len(left))) % size
    return _matched(best_first[left], best_first[right])


def _matched(left: NDArray[np.intp], right: NDArray[np.intp]) -> IndexPairs:
    return [(int(i), int(j)) for i, j in zip(left, right, strict=False)]


SAMPLING_MODES: dict[
    str, Callable[[NDArray[np.intp], int, float, np.random.Generator], IndexPairs]
] = {
    "all_pair": _all_pair,
    "top_bottom": _top_bottom,
    "uniform": _uniform,
    "random": _random,
}


def margin_ranking(
    scores: torch.Tensor, labels: torch.Tensor, reference: torch.Tensor | None = None
) -> torch.Tensor:
    """Loss of SimCLS for one question (Liu and Liu 2021, equation 2, as llm-blender has it).

    The sum of max(0, s_j - s_i + (j - i) / n) over all pairs in which i is the better one, i and
    j being their places by label, plus the mean of max(0, s_i - s_reference). Equal labels share
    a place and ask nothing of each other.

    Args:
        scores: Similarities of the candidates to the source, [n].
        labels: Metric values, higher is better, [n].
        reference: Similarity of the reference answer, scalar; None leaves out its part.

    Returns:
        Scalar; 0 for one candidate without a reference.
    """
    is_better = labels[:, None] > labels[None, :]
    places = is_better.sum(dim=0)
    margins = (places[None, :] - places[:, None]) / len(labels)
    loss = (scores[None, :] - scores[:, None] + margins)[is_better].relu().sum()
    return loss if reference is None else loss + (scores - reference).relu().mean()


def best_by_metric(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Targets of SummaReranker: 1 where a candidate has the highest value of a metric, else 0.

    Ravaut, Joty and Chen 2022, section 3.2. Candidates that tie for the highest are all 1.

    Args:
        labels: Metric values, higher is better, [n, n_tasks], n >= 1.

    Returns:
        [n, n_tasks].
    """
    return (labels == labels.max(axis=0, keepdims=True)).astype(np.float64)
