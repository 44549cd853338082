"""Training recipes of any kind: which kind one is, and how its job is run. Light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blender_med.errors import ConfigError
from blender_med.training.config import RankerJob, TrainingData, load_ranker_job
from blender_med.training.fuser_config import FuserJob, load_fuser_job

Job = RankerJob | FuserJob

# The section that tells the kind of a recipe.
_LOADERS: dict[str, Callable[..., Job]] = {"ranker": load_ranker_job, "fuser": load_fuser_job}


def load_job(tree: Mapping[str, Any], file: Path) -> Job:
    """The job of a recipe of any kind.

    Raises:
        ConfigError: It is no training recipe, or not a valid one.
        MissingDependencyError: The backbone's package is not installed.
    """
    for section, load in _LOADERS.items():
        if section in tree:
            return load(tree, file=file)
    fix = f"name a recipe with one of the sections {', '.join(_LOADERS)}"
    raise ConfigError("not a training recipe", file=file, fix=fix)


def prepared(job: Job, data: TrainingData) -> tuple[int, Callable[..., bool]]:
    """Steps that a job takes at most, and the function that brings a folder up to date.

    Raises:
        ConfigError: The run is no run directory, or is not finished.
        DataError: There are no data, or none that can be learned from.
    """
    if isinstance(job, RankerJob):
        from blender_med.training.examples import load_examples
        from blender_med.training.ranker_job import RankerTask

        task: Any = RankerTask(job, load_examples(data, job.labels))
    else:
        from blender_med.training.fuser_examples import load_fuser_examples
        from blender_med.training.fuser_job import FuserTask

        task = FuserTask(job, load_fuser_examples(data, job.candidates))
    from blender_med.training.job import bring_up_to_date

    steps = job.training.total_steps(len(task.examples.train))
    return steps, lambda folder, **settings: bring_up_to_date(task, folder, **settings)
