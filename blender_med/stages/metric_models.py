"""The models behind the metrics of a run: their identity, and loading each once."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.errors import BlenderMedError, DataError
from blender_med.experts.hub import commit_hash
from blender_med.experts.revision import weights_revision
from blender_med.metrics import METRICS
from blender_med.metrics.config import BartScoreConfig, MetricModelConfig, MetricModels
from blender_med.metrics.scoring import ModelScorer, model_metrics
from blender_med.models import local_folder
from blender_med.store.files import file_sha256


class MetricScorers:
    """Scorers of the models that some metrics need, each loaded when it is first asked for.

    Attributes:
        references: All references of the run; set before the first scorer is loaded.

    Args:
        metrics: Names of metrics.
        models: Settings of the models.
    """

    def __init__(self, metrics: Sequence[str], models: MetricModels) -> None:
        self._metrics = model_metrics(metrics)
        self._models = models
        self._loaded: dict[str, ModelScorer] = {}
        self.references: Sequence[str] = ()

    def identity(self) -> dict[str, Any]:
        """Result-affecting settings and weights of each model in use; loads none.

        Raises:
            BlenderMedError: A model is not found.
        """
        return {
            name: result_fields(self._config(name)) | self._weights[name] for name in self._metrics
        }

    @cached_property
    def _weights(self) -> dict[str, dict[str, str]]:
        return {name: self._hashes(name) for name in self._metrics}

    def _hashes(self, name: str) -> dict[str, str]:
        config = self._config(name)
        try:
            hashes = {"weights": weights_revision(config.model, config.revision)}
            if isinstance(config, BartScoreConfig) and config.state_dict is not None:
                hashes["state_dict"] = _file_hash(config.state_dict)
        except BlenderMedError as error:
            raise error.under(f"score.models.{name}") from error
        return hashes

    def load(self, name: str) -> ModelScorer:
        """The scorer of a model.

        Raises:
            BlenderMedError: It cannot be loaded; the key is the one in the recipe.
        """
        if name not in self._loaded:
            scorer_class = METRICS.load(self._metrics[name][0])
            try:
                scorer = scorer_class.from_config(self._pinned(name))
            except BlenderMedError as error:
                raise error.under(f"score.models.{name}") from error
            scorer.use_references(self.references)
            self._loaded[name] = scorer
        return self._loaded[name]

    def unload(self) -> None:
        """Give the memory of all models back."""
        self._loaded.clear()
        gc.collect()

    def _config(self, name: str) -> MetricModelConfig:
        config: MetricModelConfig = getattr(self._models, name)
        return config

    def _pinned(self, name: str) -> MetricModelConfig:
        """The settings with the commit that the fingerprint names, not with a branch."""
        config = self._config(name)
        if local_folder(config.model) is not None:
            return config.model_copy(update={"revision": None})
        return config.model_copy(update={"revision": commit_hash(config.model, config.revision)})


def _file_hash(path: str) -> str:
    if not Path(path).is_file():
        fix = "correct the path"
        raise DataError("no such file", key="state_dict", value=path, fix=fix)
    return "sha256:" + file_sha256(Path(path))
