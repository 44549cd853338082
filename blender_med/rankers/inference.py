"""Ranking many questions: all comparisons of a window of questions share their batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from blender_med.batching import token_budget_batches
from blender_med.models import torch_dtype
from blender_med.rankers.aggregate import aggregation as aggregation_named
from blender_med.rankers.base import Advance, Rankings, check_batch_tokens, check_candidates
from blender_med.rankers.collate import PairEncoder
from blender_med.rankers.contest import Contest, contests
from blender_med.rankers.pairranker import PairRanker
from blender_med.rankers.scorer import PairScorer, prepared
from blender_med.rankers.strategies import MEET_THEMSELVES, Strategy
from blender_med.rankers.strategies import strategy as strategy_named

# Comparisons that open a window of questions. More fill the later rounds of a strategy better;
# fewer keep memory small and progress visible.
_WINDOW = 1024


class Comparison(NamedTuple):
    """An ordered pair of a question's candidates, to be compared."""

    contest: Contest
    first: int
    second: int


def rank_questions(
    model: PairRanker,
    sources: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    strategy: str,
    aggregation: str,
    top_k: int,
    batch_tokens: int,
    dtype: str | None,
    advance: Advance | None,
) -> Rankings:
    """Order the candidates of each question; see :meth:`PairRanker.rank`."""
    check_candidates(sources, candidates)
    check_batch_tokens(batch_tokens)
    compare, aggregate = strategy_named(strategy, top_k), aggregation_named(aggregation)
    meet_themselves = compare in MEET_THEMSELVES
    encoder = model.encoder
    rankings: Rankings = []
    with _evaluating(model):
        scorer = prepared(model, model.dtype if dtype is None else torch_dtype(dtype))
        for window in _windows([len(group) for group in candidates], compare):
            group = contests(
                sources[window], candidates[window], encoder, compare_equals=meet_themselves
            )
            _settle(group, compare, scorer, encoder, batch_tokens)
            rankings += [contest.result(aggregate) for contest in group]
            if advance is not None:
                advance(len(group))
    return rankings


@contextmanager
def _evaluating(model: PairRanker) -> Iterator[None]:
    """Evaluation mode inside; afterwards the mode of before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _windows(sizes: Sequence[int], compare: Strategy) -> Iterator[slice]:
    """Runs of questions with about ``_WINDOW`` first comparisons; at least one question each."""
    first = {n: len(compare(np.where(np.eye(n), 0.0, np.nan))) for n in set(sizes)}
    start = pairs = 0
    for end, size in enumerate(sizes, start=1):
        pairs += first[size]
        if pairs >= _WINDOW or end == len(sizes):
            yield slice(start, end)
            start, pairs = end, 0


def _settle(
    group: Sequence[Contest],
    compare: Strategy,
    scorer: PairScorer,
    encoder: PairEncoder,
    batch_tokens: int,
) -> None:
    """Make the comparisons of all contests, round by round, until none wants another."""
    while group:
        wanted = [Comparison(c, i, j) for c in group for i, j in compare(c.logits)]
        lengths = [c.contest.length(encoder, c.first, c.second) for c in wanted]
        for batch in token_budget_batches(lengths, batch_tokens):
            pairs = [wanted[k].contest.pair(encoder, *wanted[k][1:]) for k in batch]
            for k, logit in zip(batch, scorer(pairs), strict=True):
                wanted[k].contest.record(wanted[k].first, wanted[k].second, logit, lengths[k])
        group = list(dict.fromkeys(c.contest for c in wanted))
