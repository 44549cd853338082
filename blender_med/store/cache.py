"""Per-request generation cache: an answer once computed is never computed again.

One SQLite file per model identity. The key covers everything that shapes the answer (model,
rendered prompt, sampling, seed) and nothing else, so entries survive code edits, another
batch size and another number of devices.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blender_med.errors import StoreError

_KEYS_PER_QUERY = 500
_WAIT_SECONDS = 60.0
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def cache_root() -> Path:
    """Folder for caches: ``$BLENDER_MED_CACHE``, else the user's cache folder."""
    if configured := os.environ.get("BLENDER_MED_CACHE"):
        return Path(configured).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "blender_med"


class GenerationCache:
    """Answers of one model identity, by request key.

    Args:
        identity: Hash of the model's revision and the settings that change its numbers.
        root: Folder of the cache files; by default below ``cache_root()``.
    """

    def __init__(self, identity: str, root: Path | None = None) -> None:
        folder = root or cache_root() / "generations"
        self.path = folder / f"{identity[:32]}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=_WAIT_SECONDS, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """Stored answers of those ``keys`` that are known."""
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                chunk = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT key, value FROM answers WHERE key IN ({marks})"
                found.update((k, json.loads(v)) for k, v in self._connection.execute(query, chunk))
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put(self, answers: Mapping[str, Any]) -> None:
        """Store answers (plain JSON data) in one transaction."""
        rows = [(key, json.dumps(value)) for key, value in answers.items()]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def _unusable(self, error: Exception) -> StoreError:
        fix = "delete this file (answers are generated again) or set BLENDER_MED_CACHE elsewhere"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM:  # of extended codes, the kind
            fix = "free disk space or set BLENDER_MED_CACHE elsewhere, then run the command again"
        return StoreError(f"generation cache not usable: {error}", file=self.path, fix=fix)
