"""Training recipes of any kind: which kind one is, and how its job is run. Light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from blender_med.errors import ConfigError
from blender_med.training.config import RankerJob, load_ranker_job
from blender_med.training.embedding_config import EmbeddingFuserJob, load_embedding_job
from blender_med.training.expert_config import (
    FinetuneJob,
    MergeJob,
    QuantiseJob,
    load_expert_job,
)
from blender_med.training.fuser_config import FuserJob, load_fuser_job

Job = RankerJob | FuserJob | EmbeddingFuserJob | FinetuneJob | MergeJob | QuantiseJob

D = TypeVar("D")

# The key that tells the kind of a recipe.
_LOADERS: dict[str, Callable[..., Job]] = {
    "ranker": load_ranker_job,
    "fuser": load_fuser_job,
    "embedding_fuser": load_embedding_job,
    "job": load_expert_job,
}


def load_job(tree: Mapping[str, Any], file: Path) -> Job:
    """The job of a recipe of any kind.

    Raises:
        ConfigError: It is no training recipe, or not a valid one.
        MissingDependencyError: The backbone's package is not installed.
    """
    for section, load in _LOADERS.items():
        if section in tree:
            return load(tree, file=file)
    fix = f"name a recipe with one of the keys {', '.join(_LOADERS)}"
    raise ConfigError("not a training recipe", file=file, fix=fix)


def prepared(job: Job) -> tuple[int, Callable[..., bool]]:
    """Steps that a job takes at most, and the function that brings a folder up to date.

    Raises:
        ConfigError: The recipe names no data, or a run that is not finished or none.
        DataError: There are no data, or none that can be learned from.
    """
    task = _task(job)
    from blender_med.training.job import bring_up_to_date

    return task.steps(), lambda folder, **settings: bring_up_to_date(task, folder, **settings)


def _task(job: Job) -> Any:
    if isinstance(job, RankerJob):
        from blender_med.training.examples import load_examples
        from blender_med.training.ranker_job import RankerTask

        return RankerTask(job, load_examples(_named(job.data), job.labels))
    if isinstance(job, FuserJob):
        from blender_med.training.fuser_examples import load_fuser_examples
        from blender_med.training.fuser_job import FuserTask

        return FuserTask(job, load_fuser_examples(_named(job.data), job.candidates))
    if isinstance(job, EmbeddingFuserJob):
        from blender_med.training.embedding_examples import load_state_examples
        from blender_med.training.embedding_job import EmbeddingFuserTask

        return EmbeddingFuserTask(job, *load_state_examples(_named(job.data), job))
    from blender_med.training.expert_jobs import expert_task

    return expert_task(job)


def _named(data: D | None) -> D:
    if data is None:
        fix = "add data: {run: runs/NAME}, or --set data.run=runs/NAME"
        raise ConfigError("the recipe names no data to train on", key="data", fix=fix)
    return data
