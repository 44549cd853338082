"""What a fused answer rests on: its sentences linked to the candidates', and flags for the rest.

A sentence without a candidate sentence that supports it is flagged, and so are numbers, doses,
names of drugs and negations that no candidate contains or that contradict one. Pure functions;
the caller passes the embedder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blender_med.fusers.claims.drugs import drugs
from blender_med.fusers.claims.polarity import Clause, clauses, contradicted
from blender_med.fusers.claims.quantities import Quantity, quantities
from blender_med.fusers.claims.words import sentences, stems

Embed = Callable[[Sequence[str]], NDArray[Any]]  # texts to rows of length 1, [n, size]
Kind = Literal["unsupported", "number", "dose", "drug", "negation"]
Reason = Literal["absent", "contradicted"]

SIMILARITY_WEIGHT = 0.8  # of the embeddings' cosine in the support; the rest is lexical overlap
LEAST_SUPPORT = 0.5
MOST_LINKS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """A candidate sentence that a sentence of the answer rests on.

    Attributes:
        candidate: Position of the candidate, from 0.
        sentence: Position of the sentence in it, from 0.
        similarity: Cosine of the embeddings, -1..1.
        overlap: Share of the answer sentence's content words that it has, 0..1.
    """

    candidate: int
    sentence: int
    similarity: float
    overlap: float

    @property
    def support(self) -> float:
        """Similarity and overlap weighed together; higher supports more."""
        return SIMILARITY_WEIGHT * self.similarity + (1 - SIMILARITY_WEIGHT) * self.overlap


@dataclass(frozen=True, slots=True)
class Flag:
    """What is wrong with a sentence.

    Attributes:
        kind: What was found: a sentence without support, a number, a dose, a drug, a negation.
        reason: ``absent``: no candidate has it. ``contradicted``: one says otherwise.
        text: The words in question.
    """

    kind: Kind
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class CheckedSentence:
    """A sentence of an answer.

    Attributes:
        text: The sentence.
        links: Candidate sentences that support it, the strongest first; at most three.
        flags: Empty for a sentence that holds.
    """

    text: str
    links: tuple[Link, ...]
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class _Fact:
    """A candidate sentence and what it claims."""

    candidate: int
    sentence: int
    text: str

    @cached_property
    def stems(self) -> frozenset[str]:
        return stems(self.text)

    @cached_property
    def quantities(self) -> list[Quantity]:
        return quantities(self.text)

    @cached_property
    def drugs(self) -> dict[str, int]:
        return drugs(self.text)

    @cached_property
    def clauses(self) -> list[Clause]:
        return clauses(self.text)


def check_answers(
    answers: Sequence[str], candidates: Sequence[Sequence[str]], embed: Embed
) -> list[list[CheckedSentence]]:
    """The sentences of each answer, with links and flags.

    Args:
        answers: Fused answers, [n].
        candidates: What each was fused from, [n] lists of any length.
        embed: Called once, with all sentences.

    Returns:
        A list for each answer, empty for one without a sentence. Against candidates without a
        sentence everything is unsupported.
    """
    claims = [sentences(answer) for answer in answers]
    facts = [_facts(group) for group in candidates]
    groups = [*claims, *([fact.text for fact in group] for group in facts)]
    rows = _embedded(groups, embed)
    return [
        [_checked(text, known, row @ rows[len(claims) + i].T)
         for text, row in zip(texts, rows[i], strict=True)]
        for i, (texts, known) in enumerate(zip(claims, facts, strict=True))
    ]  # fmt: skip


def _facts(candidates: Sequence[str]) -> list[_Fact]:
    return [
        _Fact(i, j, text)
        for i, candidate in enumerate(candidates)
        for j, text in enumerate(sentences(candidate))
    ]


def _embedded(groups: Sequence[Sequence[str]], embed: Embed) -> list[NDArray[Any]]:
    """Embeddings of each group, [len(group), size]; equal texts are embedded once."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(t for g in groups for t in g))}
    rows = np.asarray(embed(list(distinct))) if distinct else np.zeros((0, 1))
    order = rows[[distinct[text] for group in groups for text in group]]
    return np.split(order, list(accumulate(map(len, groups)))[:-1])


def _checked(text: str, facts: Sequence[_Fact], similarities: NDArray[Any]) -> CheckedSentence:
    claim = _Fact(-1, -1, text)
    links = _links(claim, facts, similarities)
    flags = [] if links else [Flag("unsupported", "absent", text)]
    flags += [*_drug_flags(claim, facts), *_quantity_flags(claim, facts)]
    return CheckedSentence(text, links, (*flags, *_negation_flags(claim, facts)))


def _links(claim: _Fact, facts: Sequence[_Fact], similarities: NDArray[Any]) -> tuple[Link, ...]:
    links = [
        Link(fact.candidate, fact.sentence, float(similarity), _overlap(claim, fact))
        for fact, similarity in zip(facts, similarities, strict=True)
    ]
    strong = [link for link in links if link.support >= LEAST_SUPPORT]
    return tuple(sorted(strong, key=lambda link: -link.support)[:MOST_LINKS])


def _overlap(claim: _Fact, fact: _Fact) -> float:
    return len(claim.stems & fact.stems) / max(1, len(claim.stems))


def _drug_flags(claim: _Fact, facts: Sequence[_Fact]) -> list[Flag]:
    known = {name for fact in facts for name in fact.drugs}
    return [Flag("drug", "absent", name) for name in claim.drugs if name not in known]


def _quantity_flags(claim: _Fact, facts: Sequence[_Fact]) -> list[Flag]:
    flags = []
    for quantity in claim.quantities:
        reason = _quantity_reason(claim, quantity, facts)
        if reason is not None:
            flags.append(Flag("dose" if quantity.is_dose else "number", reason, quantity.text))
    return list(dict.fromkeys(flags))


def _quantity_reason(claim: _Fact, quantity: Quantity, facts: Sequence[_Fact]) -> Reason | None:
    giving = [fact for fact in facts if any(quantity.given_by(own) for own in fact.quantities)]
    if not giving:
        return "absent"
    drug = _drug_of(claim, quantity) if quantity.is_dose else None
    if any(drug in fact.drugs for fact in facts):
        # A sentence that names other drugs alone gives their dose, not this one's.
        giving = [fact for fact in giving if drug in fact.drugs or not fact.drugs]
    # The same number in a sentence about something else does not support it.
    return None if any(claim.stems & fact.stems for fact in giving) else "contradicted"


def _drug_of(claim: _Fact, dose: Quantity) -> str | None:
    """The drug that a dose belongs to: behind ``of``, else the nearest one before, else after."""
    end = dose.start + len(dose.text)
    following = [name for name, start in claim.drugs.items() if start >= end]
    if claim.text[end:].startswith(" of ") and following:
        return min(following, key=lambda name: claim.drugs[name])
    before = [name for name, start in claim.drugs.items() if start < dose.start]
    if before:
        return max(before, key=lambda name: claim.drugs[name])
    return min(following, key=lambda name: claim.drugs[name], default=None)


def _negation_flags(claim: _Fact, facts: Sequence[_Fact]) -> list[Flag]:
    known = [clause for fact in facts for clause in fact.clauses]
    if any(contradicted(clause, known) for clause in claim.clauses):
        return [Flag("negation", "contradicted", claim.text)]
    return []
