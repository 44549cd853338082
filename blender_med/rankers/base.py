"""What every ranker gives: an order of the candidates of each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import ConfigError, DataError

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RankedCandidates:
    """Order of the candidates of one question.

    Attributes:
        scores: Higher is better, [n].
        ranks: 1 is best; ties share the lower number, as 1, 2, 2, 4; [n].
        pairwise_logits: [n, n]; entry (i, j) > 0: i beats j when it stands first. NaN where not
            computed, 0 on the diagonal. None for rankers that score one candidate at a time.
        comparisons: Forward passes of an ordered pair.
        tokens: Tokens run through the model, padding not counted.
    """

    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    pairwise_logits: NDArray[np.float32] | None = None
    comparisons: int = 0
    tokens: int = 0


Rankings = list[RankedCandidates]


class Ranker(Protocol):
    """Orders the candidates of questions; any number per question, also different numbers."""

    def rank(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
        **settings: Any,
    ) -> Rankings:
        """Rankings in the order of ``sources``; ``advance(n)`` reports n questions done."""
        ...


def check_candidates(sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> None:
    """Check what is to be ranked.

    Raises:
        DataError: There are not as many candidate lists as sources, a list is empty, or an entry
            is no string that can be written in UTF-8.
    """
    if isinstance(sources, str):
        raise DataError("sources is one text", value=sources, fix="give a list of texts")
    if len(sources) != len(candidates):
        problem = f"{len(sources)} sources but {len(candidates)} lists of candidates"
        raise DataError(problem, fix="give one list of candidates for each source")
    for row, (source, group) in enumerate(zip(sources, candidates, strict=True), start=1):
        if isinstance(group, str) or not isinstance(group, Sized) or not len(group):
            fix = "give a list with at least one candidate, or leave the question out"
            raise DataError("no candidate to rank", row=row, value=group, fix=fix)
        texts: list[Any] = [source, *group]
        for text in texts:
            if not isinstance(text, str):
                fix = "replace a missing answer by an empty string"
                raise DataError("a text is no string", row=row, value=text, fix=fix)
            _check_unicode(text, row)


def _check_unicode(text: str, row: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fix = "decode the file that it comes from with errors='replace'"
        problem = f"a text holds half a character at position {error.start}"
        raise DataError(problem, row=row, value=text[error.start], fix=fix) from error


def check_batch_tokens(batch_tokens: int) -> None:
    """Check that a forward pass has room for something.

    Raises:
        ConfigError: It has not.
    """
    if batch_tokens < 1:
        fix = "give at least 1; a longer row stands alone"
        raise ConfigError("no room in a batch", key="batch_tokens", value=batch_tokens, fix=fix)
