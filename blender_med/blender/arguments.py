"""Arguments and results in the shapes of llm-blender."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.base import Rankings
from blender_med.registry import suggestion

# [n, k] where every question has k candidates, else n rows of their own lengths.
Rows = NDArray[Any] | list[NDArray[Any]]


def check_choice(key: str, value: str, known: Collection[str]) -> None:
    """Check that a value is one of those known.

    Raises:
        ConfigError: It is not.
    """
    if value not in known:
        raise ConfigError("no such choice", key=key, value=value, fix=suggestion(value, known))


def check_batch_size(batch_size: int) -> None:
    """Check that a batch holds something.

    Raises:
        ConfigError: It does not.
    """
    if batch_size < 1:
        fix = "give at least 1"
        raise ConfigError("an empty batch", key="batch_size", value=batch_size, fix=fix)


def check_texts(name: str, texts: Sequence[Any], count: int | None = None) -> None:
    """Check that an argument is a list of texts, one for each of ``count`` inputs.

    Raises:
        DataError: It is not.
    """
    if isinstance(texts, str):
        raise DataError(f"{name} is one text", value=texts, fix="give a list of texts")
    if count is not None and len(texts) != count:
        problem = f"{name} has {len(texts)} entries for {count} inputs"
        raise DataError(problem, fix="give one entry for each input")
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            fix = "replace what is missing by an empty string"
            raise DataError(f"an entry of {name} is no text", row=row, value=text, fix=fix)


def joined(
    inputs: Sequence[str], instructions: Sequence[str] | None, separator: str = ""
) -> list[str]:
    """Inputs with their instructions in front.

    Raises:
        DataError: An argument is no list of texts, or there is not one instruction each.
    """
    check_texts("inputs", inputs)
    if instructions is None:
        return list(inputs)
    check_texts("instructions", instructions, len(inputs))
    return [f"{i}{separator}{text}" for i, text in zip(instructions, inputs, strict=True)]


_REFERENCES: dict[str, Callable[[Sequence[str]], str]] = {
    "longest": lambda texts: max(texts, key=len),
    "shortest": lambda texts: min(texts, key=len),
    "median_length": lambda texts: sorted(texts, key=len)[len(texts) // 2],
    "first": lambda texts: texts[0],
    "last": lambda texts: texts[-1],
}


def references(
    candidates: Sequence[Sequence[str]], ref_mode: str, given: Sequence[str] | None
) -> list[str]:
    """The reference of each question: the one given, or the candidate that ``ref_mode`` names.

    Of equally long candidates the first is taken.

    Raises:
        ConfigError: Unknown ``ref_mode``.
        DataError: There is not one reference for each question.
    """
    check_choice("ref_mode", ref_mode, _REFERENCES)
    if given is None:
        return [_REFERENCES[ref_mode](group) for group in candidates]
    check_texts("ref_candidates", given, len(candidates))
    return list(given)


def repeated(texts: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Each text as often as its size says."""
    return list(chain.from_iterable(map(repeat, texts, sizes)))


def rows(values: Sequence[Sequence[float] | NDArray[Any]], dtype: Any) -> Rows:
    """An array [n, k], or where the k differ a list of n arrays."""
    if len({len(row) for row in values}) > 1:
        return [np.array(row, dtype=dtype) for row in values]
    return np.array(values, dtype=dtype).reshape(len(values), -1 if values else 0)


def in_order(
    candidates: Sequence[Sequence[str]], rankings: Rankings, *, worst_first: bool = False
) -> list[list[str]]:
    """Candidates of each question from the best to the worst score; ties keep their order."""
    sign = 1 if worst_first else -1
    return [
        [group[i] for i in np.argsort(sign * np.array(ranking.scores), kind="stable")]
        for group, ranking in zip(candidates, rankings, strict=True)
    ]
