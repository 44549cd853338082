"""How well each ranker orders the candidates, against the metrics that label them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from blender_med.metrics.ranking import RANKING_METRICS, ranking_quality
from blender_med.records import Ranking
from blender_med.stages.comparison.estimates import Resampling, mean_estimates, question_groups
from blender_med.stages.comparison.rows import Block, RankingRow
from blender_med.stages.methods.board import Board, Floats, Ints

# Scores that a ranker gave the candidates of a board, [rows]; NaN where it gave none.
Scores = dict[str, Floats]


def ranking_rows(
    boards: Sequence[Board],
    rankings: Mapping[str, Iterable[Ranking]],
    labels: Sequence[str],
    resampling: Resampling,
) -> Iterator[RankingRow]:
    """Rows by block, label metric and ranker.

    A question counts where at least two of its candidates have different labels: the others say
    nothing about an order. Candidates without a label are left out. A ranker without such a
    question in a block has no row there.

    Args:
        boards: From ``build_boards``.
        rankings: Those of each ranker, by its name; each is read once per board.
        labels: Metrics that say which order is right; those that a board lacks are passed over.
        resampling: Of the intervals.
    """
    for board in boards:
        scores = {name: _scores(board, own) for name, own in rankings.items()}
        for split in dict.fromkeys(question.split for question in board.questions):
            block = Block(board.dataset, split, board.task, board.protocol)
            for label in (metric for metric in labels if metric in board.scores):
                yield from _block_rows(block, board, label, scores, resampling)


def _scores(board: Board, rankings: Iterable[Ranking]) -> Floats:
    places = {question.id: index for index, question in enumerate(board.questions)}
    found = np.full(len(board.candidates), np.nan)
    for ranking in rankings:
        index = places.get(ranking.question_id)
        if index is None or ranking.protocol != board.protocol:
            continue
        given = dict(zip(ranking.candidates, ranking.scores, strict=True))
        for row in board.rows(index):
            found[row] = given.get(board.candidates[row].key, np.nan)
    return found


def _block_rows(
    block: Block, board: Board, label: str, scores: Scores, resampling: Resampling
) -> Iterator[RankingRow]:
    indices = board.split_indices(block.split)
    quality = {name: _quality(board, label, own, indices) for name, own in scores.items()}
    groups = question_groups(board, indices)
    estimates = {
        metric: mean_estimates({n: q[metric] for n, q in quality.items()}, resampling, groups)
        for metric in RANKING_METRICS
    }
    for name, own in quality.items():
        n = int((~np.isnan(own["pairwise_accuracy"])).sum())
        if n:
            figures = {metric: estimates[metric][name] for metric in RANKING_METRICS}
            yield RankingRow(block, name, label, n, figures)


def _quality(board: Board, label: str, scores: Floats, indices: Ints) -> dict[str, Floats]:
    """Every ranking metric of each question, [indices]; NaN where it has no order to find."""
    values = board.scores[label]
    places: list[int] = []
    known: list[Ints] = []
    for place, index in enumerate(indices.tolist()):
        rows = np.array(board.rows(index))
        rows = rows[~np.isnan(scores[rows]) & ~np.isnan(values[rows])]
        if len(np.unique(values[rows])) > 1:
            places.append(place)
            known.append(rows)
    found = {metric: np.full(len(indices), np.nan) for metric in RANKING_METRICS}
    quality = ranking_quality([scores[r] for r in known], [values[r] for r in known])
    for metric, column in quality.items():
        found[metric][places] = column
    return found
