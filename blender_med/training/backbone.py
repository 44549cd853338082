"""Where the model that a training job starts from lies; light until it is asked for."""

from __future__ import annotations

from pathlib import Path

from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.experts.revision import model_revision, weights_revision
from blender_med.rankers.config import check_source

_EXPERT = "expert:"


def check_backbone(source: str, key: str) -> None:
    """Check a backbone as far as that goes without loading it or asking the Hub.

    Args:
        source: Local folder, Hub id, ``package:NAME`` or ``expert:NAME``.
        key: Where it stands in the recipe, for messages.

    Raises:
        ConfigError: There is no such model or expert recipe, or the expert has no weights here.
        MissingDependencyError: The model's package is not installed.
    """
    if not source.startswith(_EXPERT):
        check_source(source, key)
    elif (expert := _expert(source, key)).model is not None:
        check_source(expert.model, key)


def backbone_source(source: str, revision: str | None = None) -> tuple[str | Path, str | None]:
    """Folder or Hub id of a backbone, and its revision; weights in a GGUF are converted first.

    Raises:
        ConfigError: As :func:`check_backbone`.
        ExpertError: The conversion fails.
        MissingDependencyError: The model's package is not installed.
    """
    if not source.startswith(_EXPERT):
        return source, revision
    expert = _expert(source, "fuser.backbone")
    if expert.package is None:
        return str(expert.model), expert.revision
    from blender_med.experts.packages import package_model_folder

    return package_model_folder(expert), None


def backbone_revision(source: str, revision: str | None = None) -> str:
    """Identity of a backbone's weights. Raises as :func:`backbone_source`."""
    if source.startswith(_EXPERT):
        return model_revision(_expert(source, "fuser.backbone"))
    return weights_revision(source, revision)


def _expert(source: str, key: str) -> ExpertConfig:
    expert = load_expert_config(source.removeprefix(_EXPERT), key=key)
    if expert.engine in ("fake", "openai") or expert.lora is not None:
        fix = "name an expert that has weights of its own, without an adapter"
        raise ConfigError("this expert has no weights to train", key=key, value=source, fix=fix)
    return expert
