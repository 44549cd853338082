"""Recipe of a comparison of rankers on human grades; light, no ranker is loaded here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import Recipe, apply_overrides, load_yaml, parse, speed_only
from blender_med.data.liveqa_med import METRIC
from blender_med.errors import ConfigError
from blender_med.rankers.config import Name, RankerToApply
from blender_med.recipes_folder import find_recipe
from blender_med.training.config import RankerJob, load_ranker_job

Asked = Literal["question", "summary", "paraphrase"]
Answers = Literal["medquad", "nist"]


class GradesConfig(Recipe):
    """The graded answers of LiveQA-Med.

    ``path`` is the folder of the test set, ``qrels`` MedQuAD's folder ``liveqa_med_qrels``.
    ``answers``: those retrieved from MedQuAD, and those of the track's systems (``nist``).
    ``asked``: what a ranker reads as the question: the consumer's ``question`` itself, its
    ``summary`` or its ``paraphrase`` by the National Library of Medicine.
    """

    path: str | None = None
    qrels: str | None = None
    answers: tuple[Answers, ...] = Field(("medquad", "nist"), min_length=1)
    asked: tuple[Asked, ...] = Field(("question", "summary"), min_length=1)


class GradedRecipe(Recipe):
    """Compares rankers on human grades.

    ``rankers`` rank as they are. ``learned`` are training jobs (recipes of ``rankers/``, or
    inline ones) that learn from the grades of the other questions, in ``folds`` folds. Every
    ranker is compared with ``baseline``.
    """

    name: Name
    description: str = speed_only("")
    seed: int = Field(0, ge=0, lt=2**31)
    output_dir: str = speed_only("runs")
    grades: GradesConfig = GradesConfig()
    rankers: tuple[RankerToApply, ...] = Field(min_length=1)
    learned: tuple[str | dict[str, Any], ...] = ()
    folds: int = Field(5, ge=3)
    baseline: str = "bm25"
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")

    @field_validator("rankers", mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        """A bare type, such as ``bm25``, stands for that ranker with its default settings."""
        if not isinstance(value, (list, tuple)):
            return value
        return [{"type": entry} if isinstance(entry, str) else entry for entry in value]

    @model_validator(mode="after")
    def _names(self) -> GradedRecipe:
        names = [ranker.method for ranker in self.rankers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rankers are called '{name}': give one another 'name'")
        if any(ranker.type == "mean" for ranker in self.rankers):
            raise ValueError("a ranker of type 'mean' belongs into stage rank of a pipeline")
        if self.baseline not in names:
            raise ValueError(f"no ranker is called '{self.baseline}' (key 'baseline')")
        return self

    @property
    def folder(self) -> Path:
        """Where the tables and the learned rankers are written."""
        return Path(self.output_dir) / self.name

    def jobs(self) -> list[RankerJob]:
        """Training jobs of ``learned``, with the human grade as their only label.

        Raises:
            ConfigError: No such recipe, it is not valid, or its name is that of another ranker.
        """
        names = {ranker.method for ranker in self.rankers}
        found: list[RankerJob] = []
        for position, source in enumerate(self.learned):
            key = f"learned.{position}"
            job = load_ranker_job(source, key=key).model_copy(update={"labels": (METRIC,)})
            if job.name in names:
                fix = "give the training job another name"
                raise ConfigError("two rankers have one name", key=key, value=job.name, fix=fix)
            names.add(job.name)
            found.append(job)
        return found


def load_graded_recipe(path: Path, overrides: Iterable[str] = ()) -> GradedRecipe:
    """Read a recipe and check it as far as that goes without loading a model.

    Raises:
        ConfigError: There is no such recipe, it is not valid, or a model is not to be found.
        MissingDependencyError: The package of a model is not installed.
    """
    file = find_recipe(path)
    recipe = parse(GradedRecipe, apply_overrides(load_yaml(file), overrides), file=file)
    for position, ranker in enumerate(recipe.rankers):
        ranker.check_models(f"rankers.{position}")
        if getattr(ranker, "trained", None) is not None:
            fix = "name its folder with 'model', or its recipe under 'learned'"
            problem = "there is no stage train-ranker here"
            raise ConfigError(problem, key=f"rankers.{position}.trained", file=file, fix=fix)
    recipe.jobs()
    return recipe
