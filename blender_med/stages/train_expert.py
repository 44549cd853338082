"""Stage ``train-expert``: make the experts that the run asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.stages.base import Advance, Reads, Run
from blender_med.stages.config import TrainExpertConfig
from blender_med.stages.expert_recipes import made_in_run
from blender_med.stages.training import TrainingStage
from blender_med.training.expert_config import (
    check_tuning_source,
    job_experts,
    named_experts,
    tuning_sources,
)


class TrainExpert(TrainingStage):
    """Experts, a folder each: tuned, merged or quantised.

    They learn from documents that the run does not ask about, so that neither the train questions,
    by which rankers learn how good the experts are, nor the test questions are known to them.
    """

    name = "train-expert"
    kind = "expert"
    reads = (Reads("prepare", ("id", "task", "question", "options", "reference", "meta")),)
    config: TrainExpertConfig

    def __init__(self, config: TrainExpertConfig, run: Run) -> None:
        super().__init__(config, run)
        self._made = made_in_run(run.recipe, run.folder)
        earlier: dict[str, ExpertConfig] = {}
        for job in config.jobs:
            key = f"train-expert.experts.{job.name}"
            _check_order(job, set(self._made) - set(earlier), key)
            try:
                job_experts(job, earlier)
            except ConfigError as error:
                raise error.under(key) from error
            for place, source in tuning_sources(job):
                check_tuning_source(source, f"{key}.{place}", None)
            earlier[job.name] = self._made[job.name]

    def identity(self) -> dict[str, Any]:
        """Settings and data sets; the weights that jobs start from are part of their manifests."""
        from blender_med.data.fingerprint import dataset_identity
        from blender_med.training.expert_jobs import with_path

        datasets = [
            dataset_identity(with_path(source, self.run.recipe.dataset))
            for job in self.config.jobs
            for _, source in tuning_sources(job)
        ]
        return {"experts": [result_fields(job) for job in self.config.jobs], "data": datasets}

    def steps(self, job: Any) -> int:
        """Known at once where a job names ``max_steps``; else one, and progress comes in a leap."""
        return getattr(getattr(job, "training", None), "max_steps", None) or 1

    def train(self, job: Any, folder: Path, advance: Advance) -> bool:
        """Bring the folder of an expert up to date."""
        from blender_med.training.expert_jobs import expert_task
        from blender_med.training.job import bring_up_to_date

        task = expert_task(
            job, made=self._made, asked=self.run.questions, datasets=self.run.recipe.dataset
        )
        return bring_up_to_date(task, folder, advance=advance)


def _check_order(job: Any, later: set[str], key: str) -> None:
    """Check that a job starts from experts that are there before it."""
    for place, name in named_experts(job).items():
        if name in later:
            fix = f"put '{name}' before '{job.name}'"
            problem = f"'{job.name}' starts from an expert that is made after it"
            raise ConfigError(problem, key=f"{key}.{place}", value=name, fix=fix)
