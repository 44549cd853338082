"""The one exception root. Every error says where, what was received, and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_UNSET: Any = object()
_LONGEST_VALUE = 200
_LONGEST_SEARCH = 20_000  # characters of a value that are searched for keys before it is cut
# Names under which keys and passwords stand in settings.
SECRET_NAME = re.compile(
    r"(^|[._-])(api[_-]?keys?|api[_-]?key[_-]?env|access[_-]?keys?|(hf|hub|auth|access)[_-]?token"
    r"|token|secret|password|passwd|authorization)$",
    re.IGNORECASE,
)
_SECRETS = (
    re.compile(r"(?<![A-Za-z0-9])(sk-|hf_|gh[pousr]_)[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{16,}"),
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)([?&][\w-]*(?:key|token|secret|password)=)[^&\s'\"]+"),
    # A mapping's quotes stand with backslashes where the mapping itself is quoted in a text. The
    # value ends at a quote escaped as its first one, or with the text.
    re.compile(
        r"(?is)(['\"](?:api[_-]?key|(?:hf|hub|auth|access)[_-]?token|token|secret|password|passwd"
        r"|authorization)\\*['\"]\s*:\s*)(\\*)(['\"]).*?(?:(?<!\\)\2\3|\Z)"
    ),
)


class BlenderMedError(Exception):
    """An error that a user can act on.

    Args:
        problem: What is wrong, without a full stop.
        fix: What the user does about it.
        key: Dotted recipe key, where the problem is in a recipe.
        file: File that holds the problem.
        row: Position in the file (line, row or element), counted from 1.
        value: The value received; shown shortened.
    """

    def __init__(
        self,
        problem: str,
        *,
        fix: str,
        key: str | None = None,
        file: str | Path | None = None,
        row: int | str | None = None,
        value: Any = _UNSET,
    ) -> None:
        self.problem = problem
        self.fix = fix
        self.key = key
        self.file = None if file is None else str(file)
        self.row = row
        self.value = None if value is _UNSET else value
        super().__init__(_message(problem, fix, key, file, row, value))

    def under(self, key: str) -> BlenderMedError:
        """The same error with its key below ``key``, as it stands in the whole recipe."""
        whole = ".".join([key, *([self.key] if self.key else [])])
        value = _UNSET if self.value is None else self.value
        place: dict[str, Any] = {"key": whole, "file": self.file, "row": self.row}
        return type(self)(self.problem, fix=self.fix, value=value, **place)


def _message(
    problem: str, fix: str, key: str | None, file: str | Path | None, row: Any, value: Any
) -> str:
    where = [str(file)] if file is not None else []
    where += [f"row {row}"] if row is not None else []
    where += [f"key '{key}'"] if key is not None else []
    shown = "***" if SECRET_NAME.search(key or "") else _shown(value)
    received = "" if value is _UNSET else f" (received {shown})"
    prefix = ", ".join(where) + ": " if where else ""
    return redacted(f"{prefix}{problem}{received}. Fix: {fix}")


def _shown(value: Any) -> str:
    return shorten(redacted(repr(value)[:_LONGEST_SEARCH]))


def redacted(text: str) -> str:
    """``text`` with what looks like an API key or a password replaced by ``***``."""
    for secret in _SECRETS:
        text = secret.sub(r"\1***", text)
    return text


def shorten(text: str, longest: int = _LONGEST_VALUE) -> str:
    """Cut ``text`` to ``longest`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


class ConfigError(BlenderMedError):
    """A recipe, an override or a command-line argument is wrong."""


class DataError(BlenderMedError):
    """A data file is missing, empty, of the wrong type, or holds a malformed row."""


class ExpertError(BlenderMedError):
    """An expert cannot be loaded or does not answer."""


class StoreError(BlenderMedError):
    """A run directory, shard, manifest or cache is unreadable or inconsistent."""


class MissingDependencyError(BlenderMedError):
    """A feature needs a library that is not installed."""
