"""Whether a clause affirms or denies what it says, and whether two clauses contradict.

Cues are counted: an even number affirms (``not contraindicated``). A clause that says ``reduce``
against one that says ``increase`` contradicts it the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blender_med.fusers.claims.drugs import canonical
from blender_med.fusers.claims.quantities import quantities
from blender_med.fusers.claims.words import STOP_WORDS, stem, word_set, words

_CUES = word_set(
    """not no never none without cannot neither nor nobody nothing avoid avoids avoided avoiding
    rarely seldom hardly scarcely lack lacks lacking absence refrain forbidden prohibited
    discouraged fail fails failed"""
)
# Words that hold a cue: what they deny.
_DENIALS = {
    "contraindicated": "indicated", "unsafe": "safe", "ineffective": "effective",
    "uncommon": "common", "unlikely": "likely", "impossible": "possible",
    "unnecessary": "necessary", "inappropriate": "appropriate", "unsuitable": "suitable",
    "incurable": "curable", "inadvisable": "advisable", "unable": "able",
}  # fmt: skip
_UP = word_set(
    """increase increases increased increasing raise raises raised raising elevate elevates
    elevated boost boosts higher greater strengthen strengthens strengthened"""
)
_DOWN = word_set(
    """decrease decreases decreased decreasing reduce reduces reduced reducing lower lowers lowered
    lowering diminish diminishes weaken weakens weakened lessen lessens less fewer down"""
)
_PHRASES = {
    "less than": "under", "too little": "not enough", "too few": "not enough",
    "insufficient": "not enough",
}  # fmt: skip
_DIRECTION = "increas"
# Words about the answer itself: "The answer to this question is:" claims nothing.
_FRAME = word_set(
    "answer answers answered question questions response responses candidate candidates"
)
_NO_CONTENT = _CUES | STOP_WORDS | _FRAME
_CLAUSE = re.compile(
    r";|:|,?\s(?:but|however|although|though|whereas|while|because|unless)\s|,\s(?:and|or|which)\s"
    r"|\sand\s(?=(?:is|are|was|were|can|cannot|could|should|may|might|must|has|have|had|does|do|"
    r"did|will|would|not|no|never)\b)",
    re.IGNORECASE,
)
LEAST_SHARED = 0.6
_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause.

    Attributes:
        terms: Stems of its content words and its quantities, without cues.
        denied: Whether an odd number of cues denies it.
        directions: Words of rising or falling; empty where it has none.
    """

    terms: frozenset[str]
    denied: bool
    directions: tuple[int, ...]

    def contradicts(self, other: Clause) -> bool:
        """Whether one denies what the other affirms, supposing they speak of the same."""
        denied = self.denied != other.denied
        if self.directions and other.directions:
            denied ^= sum(self.directions) % 2 != sum(other.directions) % 2
        return denied

    def shared(self, other: Clause) -> float:
        """Share of the shorter clause's terms that both have; 0 below two common terms."""
        common = len(self.terms & other.terms)
        return common / min(len(self.terms), len(other.terms)) if common > 1 else 0.0


def clauses(sentence: str) -> list[Clause]:
    """Clauses of a sentence that say anything."""
    found = [_clause(part) for part in _CLAUSE.split(sentence)]
    return [clause for clause in found if clause.terms]


def _clause(text: str) -> Clause:
    cues, directions, terms = 0, [], set()
    for word in words(_plain(text)):
        cues += word in _CUES or word in _DENIALS or word.endswith("n't")
        if word in _UP or word in _DOWN:
            directions.append(int(word in _DOWN))
            terms.add(_DIRECTION)
        elif word not in _NO_CONTENT and not word.endswith("n't"):
            terms.add(stem(canonical(_DENIALS.get(word, word))))
    terms |= {f"{quantity.value:g} {quantity.unit}" for quantity in quantities(text)}
    return Clause(frozenset(terms), cues % 2 == 1, tuple(directions))


def _plain(text: str) -> str:
    for phrase, plain in _PHRASES.items():
        text = text.replace(phrase, plain)
    return text


def contradicted(clause: Clause, others: Sequence[Clause]) -> bool:
    """Whether the clauses that speak of the same contradict it, and none agrees.

    Args:
        clause: Of an answer.
        others: Of the candidates. One speaks of the same when it shares at least
            ``LEAST_SHARED`` of the terms; among these one that agrees, and shares not much less,
            outweighs those that contradict.
    """
    near = [(clause.shared(other), clause.contradicts(other)) for other in others]
    against = max((share for share, opposed in near if opposed), default=0.0)
    agreeing = max((share for share, opposed in near if not opposed), default=0.0)
    return against >= LEAST_SHARED and agreeing < against - _MARGIN
