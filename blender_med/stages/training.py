"""What stages that train have in common: a job each, in a folder of its own."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Run, Stage, Unit
from blender_med.stages.config import (
    ScoreConfig,
    TrainExpertConfig,
    TrainFuserConfig,
    TrainRankerConfig,
)
from blender_med.stages.gate_config import TrainGateConfig
from blender_med.store.manifest import read_manifest
from blender_med.training.config import RankerJob
from blender_med.training.embedding_config import EmbeddingFuserJob
from blender_med.training.expert_config import AnyExpertJob
from blender_med.training.fuser_config import FuserJob


class TrainingStage(Stage):
    """Trained models, a folder each; one whose settings and data are the same is kept.

    Class attributes:
        kind: What is trained, for messages.
    """

    kind: ClassVar[str]
    config: TrainRankerConfig | TrainFuserConfig | TrainExpertConfig | TrainGateConfig

    @abstractmethod
    def train(self, job: Any, folder: Path, advance: Advance) -> bool:
        """Bring the folder of a job up to date; whether anything was trained."""

    @property
    def jobs(self) -> Sequence[RankerJob | FuserJob | EmbeddingFuserJob | AnyExpertJob]:
        """Jobs of the stage, in order."""
        return self.config.jobs

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per model, of as many steps as its training takes at most."""
        return [Unit(job.name, self.steps(job)) for job in self.jobs]

    @abstractmethod
    def steps(self, job: Any) -> int:
        """Steps that a job takes at most."""

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Train what is not trained yet; there are no shards."""
        jobs = {job.name: job for job in self.jobs}
        for unit in units:
            job = jobs[unit.name]
            steps = _Counter(advance)
            trained = self.train(job, self.folder / job.name, steps)
            advance(unit.size - steps.done)
            if not trained:
                self.run.note(f"{self.kind} {job.name}: kept, its settings and data are the same")
            yield unit, []

    def extra_files(self) -> Mapping[str, Path]:
        """Every file of every model that its own manifest names, and that manifest."""
        found: dict[str, Path] = {}
        for job in self.jobs:
            folder = self.folder / job.name
            manifest = read_manifest(folder)
            for name in [*manifest.files, "manifest.json"] if manifest else []:
                found[f"{job.name}/{name}"] = folder / name
        return found

    def discard(self) -> None:
        """Remove the trained models."""
        for job in self.jobs:
            shutil.rmtree(self.folder / job.name, ignore_errors=True)


class _Counter:
    """Passes steps on and counts them."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self.done = advance, 0

    def __call__(self, steps: int) -> None:
        self.done += steps
        self._advance(steps)


def check_scored(run: Run, metric: str, key: str) -> None:
    """Check that a run scores a metric by which candidates can be ordered.

    Raises:
        ConfigError: It does not, or the metric has no better and worse.
    """
    score = run.recipe.stage("score")
    scored = score.metrics if isinstance(score, ScoreConfig) else ()
    directed = [name for name in scored if METRIC_SPECS[name].directed]
    if metric not in directed:
        fix = suggestion(metric, directed) + "; or add it to 'metrics' of stage score"
        problem = "the label metric is not scored in this run, or has no better and worse"
        raise ConfigError(problem, key=key, value=metric, fix=fix)
