"""Which pairs of candidates are compared.

A strategy is asked again after each round. It gets the logits so far, [n, n] with NaN where a
comparison was not made (see :mod:`blender_med.rankers.aggregate`), and returns the ordered pairs
(first, second) to compare next; none when it is done.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blender_med.errors import ConfigError
from blender_med.rankers.adaptive import Adaptive
from blender_med.rankers.utilities import Floats
from blender_med.registry import suggestion

Comparisons = list[tuple[int, int]]
Strategy = Callable[[Floats], Comparisons]


def full(logits: Floats) -> Comparisons:
    """Every ordered pair."""
    return [(int(i), int(j)) for i, j in np.argwhere(np.isnan(logits))]


def bubble(logits: Floats) -> Comparisons:
    """One pass of bubble sort: the better of two goes on to meet the next.

    Each meeting is in both orders; the sum of both decides, and a tie lets the later one go on.
    n - 1 meetings find the best candidate if the verdicts are transitive. llm-blender starts from
    a random order, this from the order given.
    """
    best = 0
    for rival in range(1, len(logits)):
        margin = logits[best, rival] - logits[rival, best]
        if np.isnan(margin):
            return [(best, rival), (rival, best)]
        best = best if margin > 0 else rival
    return []


def bubble_worst(logits: Floats) -> Comparisons:
    """One pass for the worst candidate: the worse of two goes on; a tie lets the later one go."""
    return bubble(-logits)


def one_order(logits: Floats) -> Comparisons:
    """Two candidates in their order only: the first stands first. Of more, the first and last."""
    last = len(logits) - 1
    return [(0, last)] if np.isnan(logits[0, last]) else []


STRATEGIES: dict[str, Strategy] = {
    "full": full,
    "bubble": bubble,
    "bubble_worst": bubble_worst,
    "one_order": one_order,
}
# In these a candidate that stands more than once meets itself too, as in llm-blender.
MEET_THEMSELVES = frozenset({full, one_order})


def strategy(name: str, top_k: int) -> Strategy:
    """The strategy of that name.

    Args:
        name: A key of ``STRATEGIES``, or ``adaptive``.
        top_k: Places that ``adaptive`` settles.

    Raises:
        ConfigError: There is none of that name, or ``top_k`` is below 1.
    """
    if top_k < 1:
        raise ConfigError("no place to settle", key="top_k", value=top_k, fix="give at least 1")
    known = STRATEGIES | {"adaptive": Adaptive(top_k)}
    if name not in known:
        fix = suggestion(name, known)
        raise ConfigError("unknown strategy", key="strategy", value=name, fix=fix)
    return known[name]
