"""Identity of a data set's content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.store.files import canonical_sha256, tree_sha256

# Left out where they are not set, so that the runs from before there were any stay valid.
_CHOICES = ("where", "documents", "continuation")


def dataset_fingerprint(config: DatasetConfig) -> str:
    """Hash of the local files, or the Hub id with its revision; of its companion files too.

    A data set without a path is the type's default: the sample set of the project, or the
    type's own Hub id.
    """
    companions = DATASETS.load(config.type)(config).companions()
    if not companions:
        return _own_fingerprint(config)
    return canonical_sha256([_own_fingerprint(config), *map(tree_sha256, companions)])


def dataset_identity(config: DatasetConfig) -> dict[str, Any]:
    """Settings of a data set but for the place where it stands, and the hash of its content."""
    settings = result_fields(config) | {"path": None}
    for name in _CHOICES:
        if name not in config.model_fields_set:
            del settings[name]
    return {"dataset": settings, "content": dataset_fingerprint(config)}


def _own_fingerprint(config: DatasetConfig) -> str:
    if config.type == "sample" and config.path is None:
        from blender_med.data.sample import sample_folder

        return tree_sha256(sample_folder())
    if config.path is not None and config.is_local:
        return tree_sha256(Path(config.path))
    return f"hub:{config.path or config.type}@{config.options.get('revision', 'main')}"
