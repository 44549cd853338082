"""From a recipe file to a run: find the file, apply overrides, read the experts, check all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blender_med.config import apply_overrides, load_yaml, parse
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.recipes_folder import find_recipe
from blender_med.stages.base import Run
from blender_med.stages.config import PipelineRecipe, with_long_stages
from blender_med.stages.executor_recipes import with_executor
from blender_med.stages.expert_recipes import made_in_run, with_long_experts
from blender_med.stages.fuser_recipes import with_long_fusers
from blender_med.stages.ranker_recipes import with_long_rankers


def open_recipe(
    path: Path,
    overrides: Iterable[str] = (),
    *,
    strict: bool = False,
    verbose: bool = False,
    executor: str | None = None,
) -> Run:
    """Read a pipeline recipe with its experts.

    Args:
        path: The recipe's file.
        overrides: Of its keys, as ``a.b=value``.
        strict: Load every data set strictly.
        verbose: Let the libraries' own output through.
        executor: Type of executor that takes the place of the recipe's.

    Raises:
        ConfigError: The recipe, an override or an expert is wrong.
    """
    file = find_recipe(path)
    tree = apply_overrides(_spelt_out(load_yaml(file)), overrides)
    if "stages" not in tree:
        fix = "name one of the recipes in pipelines/, or add 'stages'"
        raise ConfigError("not a pipeline recipe: it has no 'stages'", file=file, fix=fix)
    tree = with_executor(_spelt_out(tree), executor)
    recipe = parse(PipelineRecipe, tree, file=file)
    if strict:
        datasets = [one.model_copy(update={"strict": True}) for one in recipe.dataset]
        recipe = recipe.model_copy(update={"dataset": tuple(datasets)})
    folder = Path(recipe.output_dir) / recipe.name
    made = made_in_run(recipe, folder)
    experts = tuple(
        made.get(str(expert)) or load_expert_config(expert, key=f"experts.{i}", file=file)
        for i, expert in enumerate(recipe.experts)
    )
    _check_names(experts, file)
    return Run(recipe, experts, folder, verbose=verbose)


def _spelt_out(tree: dict[str, Any]) -> dict[str, Any]:
    """Stages, experts, rankers, fusers given by name as mappings, so that overrides reach in."""
    long = with_long_fusers(with_long_rankers(with_long_experts(with_long_stages(tree))))
    return with_executor(long)


def _check_names(experts: tuple[ExpertConfig, ...], file: Path) -> None:
    names = [expert.name for expert in experts]
    for i, name in enumerate(names):
        if name in names[:i]:
            fix = "give each expert a name of its own"
            problem = "two experts have the same name"
            raise ConfigError(problem, file=file, key=f"experts.{i}", value=name, fix=fix)
