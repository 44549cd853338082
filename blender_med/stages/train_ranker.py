"""Stage ``train-ranker``: fit rankers on the train questions of the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS
from blender_med.rankers.config import check_source
from blender_med.records import Candidate, Score
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit
from blender_med.stages.config import ScoreConfig, TrainRankerConfig
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts
from blender_med.training.config import RankerJob
from blender_med.training.examples import TrainingExamples, split_examples


class TrainRanker(Stage):
    """Trained rankers, a folder each; one whose settings and data are the same is kept."""

    name = "train-ranker"
    reads = (
        Reads("prepare", ("id", "split", "question", "context", "options", "reference")),
        Reads("generate", ("question_id", "expert", "sample", "text")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
    )
    config: TrainRankerConfig

    def __init__(self, config: TrainRankerConfig, run: Run) -> None:
        super().__init__(config, run)
        score = run.recipe.stage("score")
        scored = score.metrics if isinstance(score, ScoreConfig) else ()
        for job in config.jobs:
            _check_labels(job, scored)
            check_source(job.ranker.backbone, f"train-ranker.{job.name}.ranker.backbone")

    def identity(self) -> dict[str, Any]:
        """Settings, backbone and number format of every ranker."""
        from blender_med.training.job import job_identity

        return {"rankers": [job_identity(job) for job in self.config.jobs]}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per ranker, of as many steps as its training takes at most."""
        return [
            Unit(job.name, job.training.total_steps(len(self._examples(job.labels).train)))
            for job in self.config.jobs
        ]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Train what is not trained yet; there are no shards."""
        from blender_med.training.job import train_ranker

        jobs = {job.name: job for job in self.config.jobs}
        for unit in units:
            job = jobs[unit.name]
            steps = _Counter(advance)
            trained = train_ranker(
                job, self._examples(job.labels), self.folder / job.name, advance=steps
            )
            advance(unit.size - steps.done)
            if not trained:
                self.run.note(f"ranker {job.name}: kept, its settings and data are the same")
            yield unit, []

    def extra_files(self) -> Mapping[str, Path]:
        """Every file of every ranker that its own manifest names, and that manifest."""
        found: dict[str, Path] = {}
        for job in self.config.jobs:
            folder = self.folder / job.name
            manifest = read_manifest(folder)
            for name in [*manifest.files, "manifest.json"] if manifest else []:
                found[f"{job.name}/{name}"] = folder / name
        return found

    def discard(self) -> None:
        """Remove the trained rankers."""
        for job in self.config.jobs:
            shutil.rmtree(self.folder / job.name, ignore_errors=True)

    def _examples(self, labels: tuple[str, ...]) -> TrainingExamples:
        if labels not in self._by_labels:
            self._by_labels[labels] = split_examples(
                self.run.questions,
                read_parts(self.run.stage_folder("generate"), Candidate),
                read_parts(self.run.stage_folder("score"), Score),
                labels,
                source=f"run {self.run.recipe.name}",
            )
        return self._by_labels[labels]

    @cached_property
    def _by_labels(self) -> dict[tuple[str, ...], TrainingExamples]:
        return {}


class _Counter:
    """Passes steps on and counts them."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self.done = advance, 0

    def __call__(self, steps: int) -> None:
        self.done += steps
        self._advance(steps)


def _check_labels(job: RankerJob, scored: Sequence[str]) -> None:
    directed = [metric for metric in scored if METRIC_SPECS[metric].directed]
    for label in job.labels:
        if label not in directed:
            fix = suggestion(label, directed) + "; or add it to 'metrics' of stage score"
            problem = "the label metric is not scored in this run, or has no better and worse"
            raise ConfigError(problem, key=f"train-ranker.{job.name}.labels", value=label, fix=fix)
