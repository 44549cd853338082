"""From the recipe of a job that makes an expert to the task that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blender_med.data.config import DatasetConfig
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.records import Question
from blender_med.training.expert_config import (
    FinetuneJob,
    MergeJob,
    QuantiseJob,
    TuningData,
    TuningSource,
    job_experts,
)
from blender_med.training.job import Task


def expert_task(
    job: FinetuneJob | MergeJob | QuantiseJob,
    *,
    made: Mapping[str, ExpertConfig] | None = None,
    asked: Sequence[Question] | None = None,
    datasets: Sequence[DatasetConfig] = (),
) -> Task:
    """The task of a job.

    Args:
        job: Its recipe.
        made: Experts that the same run makes, by name.
        asked: Questions that may not be learned; None: those that the recipe holds out.
        datasets: Data sets of the run; a source of the recipe without a path reads the one of
            its type.

    Raises:
        ConfigError: An expert or a run that the recipe names is not there, or it names no data.
        DataError: A data set is missing, or there is nothing to learn from.
    """
    experts = job_experts(job, made)
    if isinstance(job, FinetuneJob):
        from blender_med.training.finetune_examples import load_tuning_examples
        from blender_med.training.finetune_job import FinetuneTask

        if job.data is None:
            fix = "add data: {sources: [{type: medquad}]}"
            raise ConfigError("the recipe names no data to train on", key="data", fix=fix)
        sources = tuple(with_path(source, datasets) for source in job.data.sources)
        data = TuningData(sources=sources, hold_out=job.data.hold_out)
        examples = load_tuning_examples(data, job.seed, asked)
        return FinetuneTask(job, experts[job.base], examples)
    if isinstance(job, MergeJob):
        from blender_med.training.merge_job import MergeTask

        return MergeTask(job, experts)
    from blender_med.training.quantise_job import QuantiseTask

    source = with_path(job.calibration.source, datasets)
    return QuantiseTask(job, experts[job.base], source, asked or ())


def with_path(source: TuningSource, datasets: Sequence[DatasetConfig]) -> TuningSource:
    """A source that names no path, with that of the data set of its type."""
    paths = [one.path for one in datasets if one.type == source.type]
    if source.path is not None or not paths:
        return source
    return source.model_copy(update={"path": paths[0]})
