"""Short type names of components, each loaded only when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from blender_med.errors import ConfigError


class Registry(Mapping[str, str]):
    """Maps a short type name to ``"module:attribute"`` without importing the module.

    Args:
        kind: What the names name, for messages: ``dataset``, ``metric``, ``stage``, ...
        entries: Type name to ``"package.module:attribute"``.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str, *, key: str | None = None, file: str | None = None) -> str:
        """Return ``name`` if it is registered.

        Raises:
            ConfigError: It is not; the message suggests the nearest name.
        """
        if name not in self._entries:
            fix = suggestion(name, self._entries)
            raise ConfigError(f"unknown {self.kind}", key=key, file=file, value=name, fix=fix)
        return name

    def load(self, name: str, *, key: str | None = None) -> Any:
        """Import and return the attribute that ``name`` stands for."""
        module, _, attribute = self._entries[self.check(name, key=key)].partition(":")
        return getattr(import_module(module), attribute)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Advice for a name that is not known: the nearest one, else the list of all."""
    names = sorted(str(k) for k in known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"choose one of: {', '.join(names)}"
