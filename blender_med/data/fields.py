"""Checked access to the fields of a raw row; everything wrong is a RowError with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from blender_med.data.files import RowError
from blender_med.data.text import storable

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NESTED = (Mapping, list, tuple, set, bytes)


def plain(value: Any, name: str) -> str | None:
    """``value`` as text; None for None, NaN and blank text. Numbers become their digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, _NESTED):
        raise RowError(f"'{name}' must be text, not {type(value).__name__}")
    text = storable(value if isinstance(value, str) else str(value))
    return text if text.strip() else None


def optional(row: Mapping[str, Any], *names: str) -> str | None:
    """Text of the first of ``names`` that has one, else None."""
    for name in names:
        text = plain(row.get(name), name)
        if text is not None:
            return text
    return None


def required(row: Mapping[str, Any], *names: str) -> str:
    """Text of the first of ``names`` that has one."""
    text = optional(row, *names)
    if text is None:
        state = "empty" if any(name in row for name in names) else "missing"
        raise RowError(f"'{names[0]}' is {state}")
    return text


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping."""
    if not isinstance(value, Mapping):
        raise RowError(f"the row must be an object, not {type(value).__name__}")
    return value


def texts(value: Any, name: str) -> list[str]:
    """A list of non-empty texts."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(f"'{name}' must be a list, not {type(value).__name__}")
    found = [plain(item, name) for item in value]
    if not all(found):
        raise RowError(f"'{name}' holds an empty text")
    return [text for text in found if text]


def options(value: Any) -> dict[str, str]:
    """Options by letter, from a mapping, a list of texts, or a list of ``{key, value}``.

    JSON text of one of these is read too. Letters of a mapping are kept as they are written
    and sorted; a list gets A, B, C, ...
    """
    if isinstance(value, str):
        value = _json_text(value)
    if isinstance(value, Mapping):
        return _lettered({str(k).strip(): v for k, v in value.items() if v is not None})
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        return _lettered({str(v.get("key", "")).strip(): v.get("value") for v in value})
    found = texts(value, "options")
    if not 2 <= len(found) <= len(LETTERS):
        raise RowError(f"2 to 26 options are needed, not {len(found)}")
    return dict(zip(LETTERS, found, strict=False))


def _json_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError("'options' is text that is not JSON") from error


def _lettered(by_key: Mapping[str, Any]) -> dict[str, str]:
    keys = sorted(by_key)
    if len(keys) < 2 or keys != list(LETTERS[: len(keys)]):
        raise RowError(f"options must be lettered A, B, C, ...; received {', '.join(keys)!r}")
    return dict(zip(keys, texts([by_key[k] for k in keys], "options"), strict=True))


def answer_index(answer: Any, choices: Sequence[str], *, base: int = 0) -> int:
    """0-based index of an answer given as an index, an option's text, or a letter.

    A text that equals an option (the first of equal ones) is that option, else a single letter
    or a number in digits is read as a position; numbers start at ``base``.
    """
    if isinstance(answer, bool) or answer is None:
        raise RowError(f"the answer is {answer}")
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not isinstance(answer, int):
        answer = _position(required({"answer": answer}, "answer"), choices, base)
    index = answer - base
    if not 0 <= index < len(choices):
        raise RowError(f"the answer {answer} is none of the {len(choices)} options")
    return int(index)


def _position(answer: str, choices: Sequence[str], base: int) -> int:
    wanted = answer.strip()
    stripped = [choice.strip() for choice in choices]
    if wanted in stripped:
        return stripped.index(wanted) + base
    if len(wanted) == 1 and wanted.upper() in LETTERS:
        return LETTERS.index(wanted.upper()) + base
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 4:
        return int(wanted)
    raise RowError(f"the answer {wanted[:60]!r} is neither an option, its letter nor its number")


def meta(**values: str | None) -> dict[str, str]:
    """The values that are there."""
    return {name: value for name, value in values.items() if value}


def duplicates_note(choices: Sequence[str]) -> str | None:
    """``"true"`` where two options read the same; such a question is kept and marked."""
    alike = len({choice.strip().lower() for choice in choices}) < len(choices)
    return "true" if alike else None
