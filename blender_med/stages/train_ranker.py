"""Stage ``train-ranker``: fit rankers on the train questions of the run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.data.pairs import RankingExample
from blender_med.rankers.config import check_source
from blender_med.records import Candidate, Score
from blender_med.stages.base import Advance, Reads, Run
from blender_med.stages.config import TrainRankerConfig
from blender_med.stages.training import TrainingStage, check_scored
from blender_med.store.shards import read_parts
from blender_med.training.config import RankerJob
from blender_med.training.examples import TrainingExamples, split_examples


class TrainRanker(TrainingStage):
    """Trained rankers, a folder each."""

    name = "train-ranker"
    kind = "ranker"
    reads = (
        Reads("prepare", ("id", "split", "question", "context", "options", "reference")),
        Reads("generate", ("question_id", "expert", "sample", "text")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
    )
    config: TrainRankerConfig

    def __init__(self, config: TrainRankerConfig, run: Run) -> None:
        super().__init__(config, run)
        for job in config.jobs:
            for label in job.labels:
                check_scored(run, label, f"train-ranker.{job.name}.labels")
            check_source(job.ranker.backbone, f"train-ranker.{job.name}.ranker.backbone")

    def identity(self) -> dict[str, Any]:
        """Settings, backbone and number format of every ranker."""
        from blender_med.training.ranker_job import ranker_identity

        return {"rankers": [ranker_identity(job) for job in self.config.jobs]}

    def train(self, job: RankerJob, folder: Path, advance: Advance) -> bool:
        """Bring the folder of a ranker up to date."""
        from blender_med.training.ranker_job import train_ranker

        return train_ranker(job, self.examples(job), folder, advance=advance)

    def steps(self, job: RankerJob) -> int:
        """Optimiser steps of a training that is not stopped early."""
        return job.training.total_steps(len(self.examples(job).train))

    def examples(self, job: RankerJob) -> TrainingExamples[RankingExample]:
        """Labelled candidates; read once for all rankers of the same labels."""
        if job.labels not in self._by_labels:
            self._by_labels[job.labels] = split_examples(
                self.run.questions,
                read_parts(self.run.stage_folder("generate"), Candidate),
                read_parts(self.run.stage_folder("score"), Score),
                job.labels,
                source=f"run {self.run.recipe.name}",
            )
        return self._by_labels[job.labels]

    @cached_property
    def _by_labels(self) -> dict[tuple[str, ...], TrainingExamples[RankingExample]]:
        return {}
