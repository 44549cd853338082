"""Fixtures of the data tests: small files, and a Hub in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blender_med.data import Questions, load_questions


@pytest.fixture(scope="session")
def medquad(shared_data: Path) -> Questions:
    """All of the real MedQuAD, loaded once."""
    return load_questions("medquad", shared_data / "medquad")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write text, bytes, or JSON (a list of rows as JSON lines for .jsonl) to a new file."""

    def _write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and name.endswith(".jsonl"):
            content = "".join(json.dumps(row) + "\n" for row in content)
        if isinstance(content, dict | list):
            content = json.dumps(content, indent=1)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[dict[str, Any]]]], list[Any]]:
    """Replace the Hub by rows in memory; returns the list of calls made to load_dataset."""

    def _serve(splits: dict[str, list[dict[str, Any]]]) -> list[Any]:
        import datasets

        calls: list[Any] = []

        def load_dataset(path: str, name: str | None = None, *, revision: str | None = None) -> Any:
            calls.append((path, name, revision))
            return datasets.DatasetDict(
                {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
            )

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return _serve
