"""The guard: a fused text competes with the ranker's top candidate, and the loser is dropped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blender_med.data.pairs import source_text
from blender_med.fusers.applied import GUARDED
from blender_med.records import Candidate, FusedAnswer, Question


@dataclass(frozen=True, slots=True)
class Contest:
    """A fused answer and its rival.

    Attributes:
        question: The question.
        top: The candidate that the guard's ranker puts first.
        fused: The answer of the plain method.
    """

    question: Question
    top: Candidate
    fused: FusedAnswer

    @property
    def is_open(self) -> bool:
        """Whether there are two different texts to compare."""
        return self.fused.candidate is None and self.fused.text != self.top.text


def guarded_answers(
    ranker: Any, settings: Mapping[str, Any], contests: Sequence[Contest], name: str
) -> list[FusedAnswer]:
    """What the guard keeps of each contest, in order.

    The fused text is kept where its margin is above 0: half the difference of the logits of both
    orders where the ranker compares pairs, else the difference of the scores. Where the fuser
    fell back to a candidate, or wrote the top candidate again, the top candidate is kept with
    margin 0 and the ranker is not asked.

    Args:
        ranker: Loaded.
        settings: Keyword arguments of its ``rank``.
        contests: The fused answers with their rivals.
        name: Of the ranker.
    """
    asked = [contest for contest in contests if contest.is_open]
    started = time.perf_counter()
    ranked = ranker.rank(
        [source_text(contest.question) for contest in asked],
        [[contest.top.text, contest.fused.text] for contest in asked],
        **_both_orders(settings),
    )
    seconds = time.perf_counter() - started
    total = sum(own.tokens + 1 for own in ranked)
    verdicts = iter(ranked)
    answers = []
    for contest in contests:
        verdict = next(verdicts) if contest.is_open else None
        share = 0.0 if verdict is None else seconds * (verdict.tokens + 1) / total
        answers.append(_guarded(contest, verdict, share, name))
    return answers


def _both_orders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of two texts both orders are compared, whatever the recipe says for many."""
    return {**settings, **({"strategy": "full"} if "strategy" in settings else {})}


def _guarded(contest: Contest, verdict: Any, seconds: float, name: str) -> FusedAnswer:
    plain, margin = contest.fused, 0.0 if verdict is None else margin_of(verdict)
    wins = margin > 0
    return replace(
        plain,
        method=plain.method + GUARDED,
        text=plain.text if wins else contest.top.text,
        candidate=None if wins else contest.top.key,
        top=contest.top.key,
        rankers=tuple(dict.fromkeys((*plain.rankers, name))),
        kept="fused" if wins else "candidate",
        margin=margin,
        guard_tokens=0 if verdict is None else verdict.tokens,
        comparisons=0 if verdict is None else verdict.comparisons,
        seconds=plain.seconds + seconds,
    )


def margin_of(verdict: Any) -> float:
    """By how much the second of two texts beats the first; above 0 it does.

    Args:
        verdict: ``RankedCandidates`` of the two.
    """
    logits = verdict.pairwise_logits
    if logits is None:
        return float(verdict.scores[1] - verdict.scores[0])
    return float(logits[1, 0] - logits[0, 1]) / 2
