"""Splits by group: a document, focus or repeated question is never cut in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import accumulate

from blender_med.records import Question

# Where a data set has one split only there is nothing to train on: a part chooses the best
# expert, the rest measures.
DEV_AND_TEST = {"dev": 0.3, "test": 0.7}
DEV_OF_TRAIN = {"dev": 0.2, "train": 0.8}


def resplit(
    questions: Sequence[Question], fractions: Mapping[str, float], seed: int
) -> list[Question]:
    """Split anew by group.

    A group's split depends on its name, the seed and the fractions alone: the sha256 of name
    and seed is its place between 0 and 1, and the fractions cut that range in their order. So a
    question keeps its split whichever others are loaded, and the sizes meet the fractions on
    average, not exactly. A split that would be empty takes the nearest group of another split.

    Args:
        questions: Their present splits are ignored. ``meta["group"]`` (the id where there is
            none) names the group within the data set.
        fractions: Split to share; they sum to 1.
        seed: Any integer.

    Returns:
        The questions in the same order; an empty list stays empty.
    """
    chosen = _assigned({_group(q) for q in questions}, fractions, seed)
    return [replace(q, split=chosen[_group(q)]) for q in questions]


def with_dev_split(questions: Sequence[Question], seed: int) -> list[Question]:
    """Keep official splits; make the dev split where it is missing.

    One split only becomes dev (0.3) and test (0.7). Otherwise, where there is no dev split, 0.2
    of train becomes dev. Both by group, as ``resplit`` does.
    """
    present = {question.split for question in questions}
    if len(present) == 1:
        return resplit(questions, DEV_AND_TEST, seed)
    if "dev" in present or "train" not in present:
        return list(questions)
    train = {_group(q) for q in questions if q.split == "train"}
    chosen = _assigned(train, DEV_OF_TRAIN, seed)
    return [q if q.split != "train" else replace(q, split=chosen[_group(q)]) for q in questions]


def _group(question: Question) -> str:
    return f"{question.dataset}/{question.meta.get('group') or question.id}"


def _assigned(groups: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    places = {group: _place(group, seed) for group in sorted(groups)}
    ends = list(accumulate(fractions.values()))
    bounds = dict(zip(fractions, zip([0.0, *ends], ends, strict=False), strict=True))
    chosen = {group: _split_at(place, bounds) for group, place in places.items()}
    for split in fractions:
        if split not in chosen.values():
            _fill(split, chosen, places, bounds[split])
    return chosen


def _place(group: str, seed: int) -> float:
    digest = sha256(f"{seed}:{group}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split_at(place: float, bounds: Mapping[str, tuple[float, float]]) -> str:
    # Rounding may leave the last bound a hair below 1.
    inside = (split for split, (_, end) in bounds.items() if place < end)
    return next(inside, list(bounds)[-1])


def _fill(
    split: str, chosen: dict[str, str], places: Mapping[str, float], bound: tuple[float, float]
) -> None:
    sizes = Counter(chosen.values())
    donors = [group for group in chosen if sizes[chosen[group]] > 1]
    if donors:
        middle = sum(bound) / 2
        chosen[min(donors, key=lambda group: abs(places[group] - middle))] = split
