"""Everything about a recipe that can be checked without loading a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blender_med.config import apply_overrides, load_yaml, parse
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.errors import ConfigError, DataError
from blender_med.experts.loading import load_expert_config
from blender_med.recipes_folder import find_recipe
from blender_med.records import Question
from blender_med.stages.grades.config import load_graded_recipe
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import stages_of
from blender_med.training.config import load_ranker_job
from blender_med.training.embedding_config import load_embedding_job
from blender_med.training.expert_config import job_experts, load_expert_job
from blender_med.training.fuser_config import load_fuser_job


def validate_recipe(path: Path, overrides: Iterable[str] = ()) -> str:
    """Check one recipe of any kind; returns what kind it is.

    Raises:
        BlenderMedError: The first problem, with key and fix.
    """
    file = find_recipe(path)
    tree = load_yaml(file)
    if "stages" in tree or "dataset" in tree:
        _check_pipeline(file, overrides)
        return "pipeline"
    if "rankers" in tree:
        load_graded_recipe(file, overrides)
        return "grades"
    tree = apply_overrides(tree, overrides)
    if "ranker" in tree:
        load_ranker_job(tree, file=file)
        return "ranker"
    if "fuser" in tree:
        load_fuser_job(tree, file=file)
        return "fuser"
    if "job" in tree:
        job_experts(load_expert_job(tree, file=file))
        return "expert job"
    if "embedding_fuser" in tree:
        load_embedding_job(tree, file=file)
        return "embedding fuser"
    if "engine" in tree or "model" in tree or "package" in tree:
        load_expert_config(tree, file=file)
        return "expert"
    if "type" in tree:
        check_dataset(parse(DatasetConfig, tree, file=file), file, key=None)
        return "data set"
    fix = (
        "a pipeline has 'stages', a ranker 'ranker', a fuser 'fuser' or 'embedding_fuser',"
        " a comparison on human grades 'rankers', an expert 'engine', 'model' or 'job',"
        " a data set 'type'"
    )
    raise ConfigError("cannot tell what kind of recipe this is", file=file, fix=fix)


def _check_pipeline(file: Path, overrides: Iterable[str]) -> None:
    run = open_recipe(file, overrides)
    several = len(run.recipe.dataset) > 1
    for i, dataset in enumerate(run.recipe.dataset):
        key = f"dataset.{i}" if several else "dataset"
        check_dataset(dataset, file, key)
        check_questions(dataset, file, key)
    stages_of(run)


def check_questions(dataset: DatasetConfig, file: Path, key: str) -> None:
    """Check that a pipeline will find questions in its data set, which stands at ``key``.

    Raises:
        ConfigError: The type holds passages, or needs a path and has none.
    """
    loader = DATASETS.load(dataset.type)
    if loader.record is not Question and dataset.continuation is None:
        fix = "name a type of questions, or set 'continuation' to pretrain on passages"
        problem = "a pipeline needs questions, this type holds passages"
        raise ConfigError(problem, file=file, key=f"{key}.type", value=dataset.type, fix=fix)
    if dataset.path is None and loader.hub is None and not loader.is_shipped:
        fix = f"name a local file or folder, for example --set {key}.path=PATH"
        problem = f"type {dataset.type} needs a path"
        raise ConfigError(problem, file=file, key=f"{key}.path", fix=fix)


def check_dataset(dataset: DatasetConfig, file: Path, key: str | None) -> None:
    """Check the options and the local path of a data set; a Hub id is left for the run.

    Args:
        dataset: Its recipe.
        file: File that the recipe stands in.
        key: Where in it; None: it is the file.

    Raises:
        ConfigError: The type has no such option or column.
        DataError: The path is neither a local file or folder nor shaped like a Hub id.
    """
    try:
        DATASETS.load(dataset.type)(dataset)
    except ConfigError as error:
        value = {} if error.value is None else {"value": error.value}
        place = _moved(str(error.key), key)
        raise ConfigError(error.problem, fix=error.fix, file=file, key=place, **value) from error
    path = dataset.path
    if path is None or dataset.is_local or _looks_like_hub_id(path):
        return
    fix = "correct the path, or name a Hub id such as owner/name"
    place = _moved("dataset.path", key)
    raise DataError("no such file, folder or Hub id", file=file, key=place, value=path, fix=fix)


def _moved(key: str, place: str | None) -> str:
    """A key below ``dataset`` as it stands below ``place``."""
    below = key.removeprefix("dataset.")
    return below if place is None else f"{place}.{below}"


def _looks_like_hub_id(path: str) -> bool:
    owner, slash, name = path.partition("/")
    return bool(slash and owner and name) and "/" not in name and not path.startswith((".", "~"))
