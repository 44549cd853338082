"""Stage ``train-fuser``: fit fusers on the train questions of the run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.data.fusion import FusionExample
from blender_med.errors import ConfigError
from blender_med.records import Candidate, Ranking, Score
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Reads, Run
from blender_med.stages.config import RankConfig, TrainFuserConfig
from blender_med.stages.training import TrainingStage, check_scored
from blender_med.store.shards import read_parts
from blender_med.training.backbone import check_backbone
from blender_med.training.examples import LEARNED_SPLITS, TrainingExamples
from blender_med.training.fuser_config import FuserJob
from blender_med.training.fuser_examples import fuser_examples, metric_values, ranker_values


class TrainFuser(TrainingStage):
    """Trained fusers, a folder each; ``GenFuser.from_pretrained`` loads one."""

    name = "train-fuser"
    kind = "fuser"
    reads = (
        Reads("prepare", ("id", "split", "task", "question", "context", "options", "reference")),
        Reads("generate", ("question_id", "expert", "sample", "text")),
        # Which of the two is needed depends on how the fusers order their candidates.
        Reads("score", ("question_id", "expert", "sample", "metric", "value"), optional=True),
        Reads("rank", ("question_id", "method", "candidates", "ranks"), optional=True),
    )
    config: TrainFuserConfig

    def __init__(self, config: TrainFuserConfig, run: Run) -> None:
        super().__init__(config, run)
        for job in config.jobs:
            key = f"train-fuser.{job.name}"
            check_backbone(job.fuser.backbone, f"{key}.fuser.backbone")
            if job.candidates.metric is not None:
                check_scored(run, job.candidates.metric, f"{key}.candidates.metric")
            else:
                _check_ranked(run, str(job.candidates.ranker), f"{key}.candidates.ranker")

    def identity(self) -> dict[str, Any]:
        """Settings, backbone and number format of every fuser."""
        from blender_med.training.fuser_job import fuser_identity

        return {"fusers": [fuser_identity(job) for job in self.config.jobs]}

    def train(self, job: FuserJob, folder: Path, advance: Advance) -> bool:
        """Bring the folder of a fuser up to date."""
        from blender_med.training.fuser_job import train_fuser

        return train_fuser(job, self.examples(job), folder, advance=advance)

    def steps(self, job: FuserJob) -> int:
        """Optimiser steps of a training that is not stopped early."""
        return job.training.total_steps(len(self.examples(job).train))

    def examples(self, job: FuserJob) -> TrainingExamples[FusionExample]:
        """Ordered candidates; read once for all fusers of the same order."""
        order = job.candidates.metric, job.candidates.ranker
        if order not in self._by_order:
            self._by_order[order] = fuser_examples(
                self.run.questions,
                read_parts(self.run.stage_folder("generate"), Candidate),
                self._values(*order),
                source=f"run {self.run.recipe.name}",
            )
        return self._by_order[order]

    def _values(self, metric: str | None, ranker: str | None) -> dict[tuple[str, str], float]:
        if metric is not None:
            return metric_values(read_parts(self.run.stage_folder("score"), Score), metric)
        return ranker_values(read_parts(self.run.stage_folder("rank"), Ranking), str(ranker))

    @cached_property
    def _by_order(self) -> dict[tuple[str | None, str | None], TrainingExamples[FusionExample]]:
        return {}


def _check_ranked(run: Run, ranker: str, key: str) -> None:
    rank = run.recipe.stage("rank")
    methods = rank.methods if isinstance(rank, RankConfig) else ()
    if ranker not in methods:
        fix = suggestion(ranker, methods) if methods else "add stage rank before train-fuser"
        problem = "stage rank of this pipeline has no such ranker"
        raise ConfigError(problem, key=key, value=ranker, fix=fix)
    splits = rank.splits if isinstance(rank, RankConfig) else None
    missing = [split for split in LEARNED_SPLITS if splits is not None and split not in splits]
    if missing:
        fix = f"add {', '.join(missing)} to 'splits' of stage rank, or leave 'splits' out"
        problem = f"stage rank does not rank the questions of split {missing[0]}"
        raise ConfigError(problem, key=key, value=ranker, fix=fix)
