"""Metrics of multiple choice: accuracy, precision, recall, F1, confusion table.

Labels are numbered 0..n_labels-1; -1 (``UNPARSED``) is an answer in which no choice was found.
It counts as wrong, is no label of its own, and its share is reported. All values are in 0..1,
higher is better but for the share of unparsed answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

UNPARSED = -1
_WORD_LABELS = {"yes", "no", "maybe"}


def correct(choices: Sequence[int | None], answers: Sequence[int | None]) -> list[float]:
    """1.0 where the choice is the right option, else 0.0; an unparsed choice (None) is wrong.

    A question whose right option is unknown (answer None) gives NaN.
    """
    return [
        float("nan") if answer is None else float(choice == answer)
        for choice, answer in zip(choices, answers, strict=True)
    ]


def option_letter(index: int) -> str:
    """Letter of the option ``index`` (0 is A); beyond Z its number, counted from 1."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def are_word_labels(options: Sequence[str]) -> bool:
    """Whether the options are the words yes, no, maybe (or some of them), in any order."""
    words = [option.strip().lower() for option in options]
    return bool(words) and len(set(words)) == len(words) and set(words) <= _WORD_LABELS


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Precision, recall and F1 of one label; 0 where nothing was predicted or nothing is gold."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ChoiceReport:
    """Scores of one set of answers.

    Attributes:
        accuracy: Share of right answers.
        precision: Macro mean over the labels that occur in gold or predictions, as scikit-learn
            does by default and as PubMedQA's own script computes macro-F1; recall, f1 likewise.
        unparsed: Share of answers without a choice.
        labels: Scores per label that occurs in gold or predictions.
        confusion: Counts, [n_labels, n_labels + 1]; rows are gold, the last column is unparsed.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    unparsed: float
    labels: dict[int, LabelScores]
    confusion: Ints


def choice_report(gold: Ints, predicted: Ints, n_labels: int) -> ChoiceReport:
    """Scores of predictions [n] against gold labels [n].

    Raises:
        ValueError: There is no answer, or a gold label is outside 0..n_labels-1.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    if len(gold) == 0 or gold.min() < 0 or gold.max() >= n_labels:
        raise ValueError(f"gold labels must be within 0..{n_labels - 1} and not empty")
    occurring = sorted({*gold.tolist(), *predicted.tolist()} - {UNPARSED})
    p, r, f, support = precision_recall_fscore_support(
        gold, predicted, labels=occurring, average=None, zero_division=0
    )
    columns = [*range(n_labels), UNPARSED]
    return ChoiceReport(
        accuracy=float((gold == predicted).mean()),
        precision=float(p.mean()),
        recall=float(r.mean()),
        f1=float(f.mean()),
        unparsed=float((predicted == UNPARSED).mean()),
        labels={
            label: LabelScores(float(p[i]), float(r[i]), float(f[i]), int(support[i]))
            for i, label in enumerate(occurring)
        },
        confusion=confusion_matrix(gold, predicted, labels=columns)[:n_labels],
    )


def confusion_columns(gold: Ints, predicted: Ints, n_labels: int) -> Floats:
    """Indicator of each question's cell of the confusion table, [n, n_labels * (n_labels + 1)].

    Sums over (re)sampled rows are confusion counts. A row with gold -1 (unknown) is all zero.
    """
    width = n_labels + 1
    columns = np.zeros((len(gold), n_labels * width))
    known = np.flatnonzero(gold >= 0)
    predicted_column = np.where(predicted == UNPARSED, n_labels, predicted)
    columns[known, gold[known] * width + predicted_column[known]] = 1.0
    return columns


def macro_scores(confusion: Floats) -> Floats:
    """Macro precision, recall and F1 of confusion tables, [..., 3].

    Args:
        confusion: Counts, [..., n_labels, n_labels + 1]; the last column is unparsed.

    Returns:
        Means over the labels that occur in gold or predictions of that table; 0 where none does.
    """
    n_labels = confusion.shape[-2]
    hits = np.diagonal(confusion[..., :n_labels], axis1=-2, axis2=-1)
    gold, predicted = confusion.sum(axis=-1), confusion[..., :n_labels].sum(axis=-2)
    scores = np.stack(
        [_ratio(hits, predicted), _ratio(hits, gold), _ratio(2 * hits, gold + predicted)], axis=-1
    )
    occurs = (gold + predicted > 0)[..., None]
    return _ratio((scores * occurs).sum(axis=-2), occurs.sum(axis=-2).astype(float))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    zeros = np.zeros(numerator.shape)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
