"""The candidates of a question as a fuser reads them, and the record of what it wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blender_med.data.fusion import fusion_source
from blender_med.errors import DataError
from blender_med.fusers.base import Advance, Fuser, Fusion
from blender_med.fusers.config import Decoding
from blender_med.records import Candidate, FusedAnswer, Question, Ranking
from blender_med.stages.groups import Group

Order = tuple[str, ...]  # keys of candidates, the best first


@dataclass(frozen=True, slots=True)
class Lineup:
    """What a fuser reads of one question.

    Attributes:
        question: The question.
        top: The first candidate that is not blank; where all are, the first.
        shown: Distinct texts that are not blank, the best first; at most ``top_k``.
    """

    question: Question
    top: Candidate
    shown: tuple[Candidate, ...]


def orders(rankings: Iterable[Ranking]) -> dict[str, Order]:
    """The candidates of each ranked question, the best first; ties keep the given order."""
    return {ranking.question_id: _order(ranking) for ranking in rankings}


def _order(ranking: Ranking) -> Order:
    places = sorted(range(len(ranking.ranks)), key=lambda place: ranking.ranks[place])
    return tuple(ranking.candidates[place] for place in places)


def line_up(group: Group, order: Order | None, top_k: int) -> Lineup:
    """The best ``top_k`` distinct texts of a question.

    Args:
        group: The question with its candidates.
        order: From :func:`orders`; None keeps the order of the candidates.
        top_k: All where there are fewer. Blank texts are left out, and of equal texts all but
            the first.

    Raises:
        DataError: The order names a candidate that the question does not have.
    """
    known = {candidate.key: candidate for candidate in group.candidates}
    keys = tuple(known) if order is None else order
    for key in keys:
        if key not in known:
            fix = "run stage rank again after generate"
            raise DataError("a ranking names a candidate that does not exist", value=key, fix=fix)
    ordered = [known[key] for key in keys]
    distinct: dict[str, Candidate] = {}
    for candidate in ordered:
        if candidate.text.strip():
            distinct.setdefault(candidate.text, candidate)
    shown = tuple(distinct.values())[:top_k]
    return Lineup(group.question, shown[0] if shown else ordered[0], shown)


def fuse_lineups(
    fuser: Fuser,
    lineups: Sequence[Lineup],
    top_k: int,
    decoding: Decoding | None = None,
    advance: Advance | None = None,
) -> list[Fusion]:
    """A fusion for each line-up, in order; the fuser is not asked where nothing is shown.

    ``advance(n)`` reports n line-ups that the fuser has done.
    """
    asked = [lineup for lineup in lineups if lineup.shown]
    sources = [fusion_source(lineup.question) for lineup in asked]
    made = iter(
        fuser.fusions(
            [instruction for instruction, _ in sources],
            [input for _, input in sources],
            [[candidate.text for candidate in lineup.shown] for lineup in asked],
            top_k=top_k,
            decoding=decoding,
            advance=advance,
        )
    )
    nothing = Fusion("", "no_candidate_text", 0)
    return [next(made) if lineup.shown else nothing for lineup in lineups]


class Origin(NamedTuple):
    """Where fused answers come from: method, ranker that ordered, expert that was asked."""

    method: str
    ranker: str | None
    expert: str | None


def fused_answers(
    origin: Origin, lineups: Sequence[Lineup], fusions: Sequence[Fusion], seconds: float
) -> list[FusedAnswer]:
    """Records of fusions.

    Args:
        origin: Of all of them.
        lineups: What the fuser read, [n].
        fusions: What it wrote, [n].
        seconds: Wall time, shared by tokens among those whose engine tells no time.
    """
    weights = [f.prompt_tokens + f.completion_tokens + 1 for f in fusions]
    return [
        _record(origin, lineup, fusion, seconds * weight / sum(weights))
        for lineup, fusion, weight in zip(lineups, fusions, weights, strict=True)
    ]


def _record(origin: Origin, lineup: Lineup, fusion: Fusion, seconds: float) -> FusedAnswer:
    is_new = fusion.outcome == "fused"
    return FusedAnswer(
        question_id=lineup.question.id,
        method=origin.method,
        text=fusion.text if is_new else lineup.top.text,
        outcome=fusion.outcome,
        candidate=None if is_new else lineup.top.key,
        shown=tuple(candidate.key for candidate in lineup.shown),
        top=lineup.top.key,
        rankers=() if origin.ranker is None else (origin.ranker,),
        prompt_tokens=fusion.prompt_tokens,
        completion_tokens=fusion.completion_tokens,
        truncated_tokens=fusion.truncated_tokens,
        finish_reason=fusion.finish_reason,
        seconds=seconds if fusion.seconds is None else fusion.seconds,
        experts_used=() if origin.expert is None else (origin.expert,),
        protocol=lineup.top.protocol,
    )
