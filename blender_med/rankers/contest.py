"""The comparisons among the candidates of one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from blender_med.rankers.aggregate import ranks
from blender_med.rankers.base import RankedCandidates
from blender_med.rankers.collate import Ids, Pair, PairEncoder
from blender_med.rankers.utilities import Floats


class Contest:
    """Distinct candidates of one question and what is known of their order.

    Candidates whose tokens are equal as far as the model sees them are one.

    Args:
        source: Token ids of the question, from :meth:`PairEncoder.sources`.
        candidates: Token ids of each candidate, from :meth:`PairEncoder.cut`; [n], n >= 1.
        compare_equals: Whether a candidate that stands more than once meets itself too, as in
            llm-blender; else that logit is 0.

    Attributes:
        logits: Of the m distinct candidates in the order of first appearance, [m, m]; NaN: not
            compared.
    """

    def __init__(self, source: Ids, candidates: Iterable[Ids], *, compare_equals: bool) -> None:
        keys = [tuple(ids) for ids in candidates]
        count = Counter(keys)
        slot = {key: i for i, key in enumerate(count)}
        self._source = source
        self._distinct = [list(key) for key in count]
        self._slots = np.array([slot[key] for key in keys])
        self.logits = np.full((len(count), len(count)), np.nan, dtype=np.float32)
        meets_itself = np.array([compare_equals and times > 1 for times in count.values()])
        np.fill_diagonal(self.logits, np.where(meets_itself, np.nan, 0.0))
        self._comparisons = 0
        self._tokens = 0

    def length(self, encoder: PairEncoder, first: int, second: int) -> int:
        """Tokens of a comparison."""
        return encoder.length(self._source, self._distinct[first], self._distinct[second])

    def pair(self, encoder: PairEncoder, first: int, second: int) -> Pair:
        """Token row of a comparison."""
        return encoder.pair(self._source, self._distinct[first], self._distinct[second])

    def record(self, first: int, second: int, logit: float, tokens: int) -> None:
        """Note the logit of a comparison and the tokens that it took."""
        self.logits[first, second] = logit
        self._comparisons += 1
        self._tokens += tokens

    def result(self, aggregate: Callable[[Floats], Floats]) -> RankedCandidates:
        """Scores and ranks of all candidates; equal texts share theirs."""
        logits = self.logits[np.ix_(self._slots, self._slots)]
        np.fill_diagonal(logits, 0.0)
        scores = tuple(float(score) for score in aggregate(logits))
        return RankedCandidates(scores, ranks(scores), logits, self._comparisons, self._tokens)


def contests(
    sources: Sequence[str],
    candidates: Sequence[Sequence[str]],
    encoder: PairEncoder,
    *,
    compare_equals: bool,
) -> list[Contest]:
    """One contest for each question; each distinct text is tokenised once."""
    texts = list(dict.fromkeys(text for group in candidates for text in group))
    ids = dict(zip(texts, encoder.candidates(texts), strict=True))
    return [
        Contest(source, [encoder.cut(source, ids[text]) for text in group],
                compare_equals=compare_equals)
        for source, group in zip(encoder.sources(sources), candidates, strict=True)
    ]  # fmt: skip
