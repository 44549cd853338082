"""Rankers that give each candidate a score of its own, without looking at its rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from blender_med.errors import DataError
from blender_med.rankers.aggregate import ranks
from blender_med.rankers.base import (
    Advance,
    RankedCandidates,
    Rankings,
    check_batch_tokens,
    check_candidates,
)

# Questions whose texts are held as tokens at a time; their rows are sorted by length together.
_QUESTIONS_AT_ONCE = 64


class Scored(NamedTuple):
    """Scores of the distinct candidates of one question, higher is better, and tokens read."""

    scores: Sequence[float]
    tokens: int


Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Scored]]


class PointwiseRanker:
    """A ranker with a model that scores each candidate by itself; a subclass says how."""

    def rank(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        batch_tokens: int = 4096,
        advance: Advance | None = None,
    ) -> Rankings:
        """Order the candidates of each question; see :func:`rank_pointwise`.

        Args:
            sources: Questions, [n].
            candidates: Candidates of each question; any number from 1.
            batch_tokens: Most tokens of a forward pass; a longer row stands alone. Speed only.
            advance: Called with the number of questions done.

        Raises:
            DataError: A question has no candidate, a text is no string, or a score is not finite.
            ConfigError: ``batch_tokens`` is below 1, or the lengths do not fit the model.
        """
        check_batch_tokens(batch_tokens)
        with self.evaluating():
            scorer = partial(self.scored, batch_tokens=batch_tokens)
            return rank_pointwise(sources, candidates, scorer, advance)

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> Sequence[Scored]:
        """Scores of the distinct candidates of each source, higher is better."""
        raise NotImplementedError

    def evaluating(self) -> AbstractContextManager[Any]:
        """What holds while the model scores; nothing for a model that is never trained."""
        return nullcontext()


def rank_pointwise(
    sources: Sequence[str],
    candidates: Sequence[Sequence[str]],
    scorer: Scorer,
    advance: Advance | None = None,
) -> Rankings:
    """Order the candidates of each question by their scores.

    Equal candidates of a question are scored once; ties share the lower rank. No question gives
    no ranking.

    Args:
        sources: Questions, [n].
        candidates: Candidates of each question; any number from 1.
        scorer: Gives for some sources with the distinct candidates of each one entry a source.
        advance: Called with the number of questions done.

    Raises:
        DataError: A question has no candidate, a text is no string, or a score is not finite.
    """
    check_candidates(sources, candidates)
    rankings: Rankings = []
    for start in range(0, len(sources), _QUESTIONS_AT_ONCE):
        own = candidates[start : start + _QUESTIONS_AT_ONCE]
        distinct = [list(dict.fromkeys(group)) for group in own]
        scored = scorer(sources[start : start + _QUESTIONS_AT_ONCE], distinct)
        for row, entry in enumerate(zip(own, distinct, scored, strict=True), start=start + 1):
            rankings.append(_ranked(row, *entry))
        if advance is not None:
            advance(len(own))
    return rankings


def _ranked(
    row: int, candidates: Sequence[str], distinct: Sequence[str], scored: Scored
) -> RankedCandidates:
    values = dict(zip(distinct, map(float, scored.scores), strict=True))
    if not np.isfinite(list(values.values())).all():
        fix = "load the ranker in float32; if that does not help, its weights are damaged"
        raise DataError("a score is not finite", row=row, value=list(values.values()), fix=fix)
    scores = tuple(values[text] for text in candidates)
    return RankedCandidates(scores=scores, ranks=ranks(scores), tokens=scored.tokens)
