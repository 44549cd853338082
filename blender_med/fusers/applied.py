"""Recipes of fusers as a pipeline applies them. Light: no fuser is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blender_med.config import InvalidValueError, Recipe, speed_only
from blender_med.fusers.config import Decoding

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
GUARDED = "-guarded"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class AppliedFuser(Recipe):
    """A fuser; its name is the name of its method in reports.

    ``ranker`` names the ranker of stage rank that orders the candidates (None: the first one;
    without a stage rank they stand as they were generated). The best ``top_k`` distinct texts
    are fused. ``guard: ranker`` adds the method NAME-guarded: the fused text or the top candidate
    of ``guard_ranker`` (None: of ``ranker``), whichever that ranker prefers.
    """

    type: str
    name: Name | None = None
    ranker: Name | None = None
    top_k: int = Field(3, ge=1)
    guard: Literal["ranker"] | None = None
    guard_ranker: Name | None = None

    @property
    def method(self) -> str:
        """Name of the method in fused answers and reports."""
        return self.name or self.type

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, and the guarded one where there is a guard."""
        return (self.method, *((self.method + GUARDED,) if self.guard else ()))

    @property
    def asked_expert(self) -> str | None:
        """Expert of the run that writes the answers; None where no expert does."""
        return None

    @model_validator(mode="after")
    def _guard_named(self) -> AppliedFuser:
        if self.guard_ranker is not None and self.guard is None:
            fix = "add guard: ranker, or leave guard_ranker out"
            raise InvalidValueError("'guard_ranker' without a guard", fix=fix)
        return self


class WritingFuser(AppliedFuser):
    """A fuser with a language model.

    ``max_length`` and ``candidate_maxlength`` are tokens of a prompt and of a candidate in it;
    None takes those that the model was trained with, else 1024 and 128. ``decoding.seed`` is
    added to the seed of the run.
    """

    decoding: Decoding = Decoding()
    max_length: int | None = Field(None, ge=8)
    candidate_maxlength: int | None = Field(None, ge=1)

    @property
    def asks_engine(self) -> bool:
        """Whether an engine of experts writes the texts; it samples, without beams."""
        return self.asked_expert is not None

    @model_validator(mode="after")
    def _no_beams_of_experts(self) -> WritingFuser:
        if not self.asks_engine:
            return self
        neutral, own = Decoding(), self.decoding
        for name in ("length_penalty", "no_repeat_ngram_size"):
            if getattr(own, name) != getattr(neutral, name):
                raise _unknown_to_experts(f"decoding.{name}")
        if (own.num_beams or 1) > 1:
            raise _unknown_to_experts("decoding.num_beams")
        return self


def _unknown_to_experts(name: str) -> InvalidValueError:
    fix = "leave it out, or name the model itself under 'model', with 'engine: transformers'"
    return InvalidValueError(f"the engines of experts do not know '{name}'", fix=fix)


class AppliedGenFuser(WritingFuser):
    """GenFuser: writes one answer from the candidates.

    Exactly one source: ``model`` (a local folder, a Hub id or ``package:NAME``; ``revision``
    fixes a Hub id), ``trained`` (a fuser of this run's stage train-fuser) or ``expert`` (an
    expert of this run, asked through its own engine). ``engine`` and ``dtype`` are for the first
    two: ``vllm`` serves decoder-only models, faster and without beams. ``device`` and
    ``batch_tokens`` are for the engine ``transformers``. ``allow_pickle`` reads weights that come
    without safetensors.
    """

    type: Literal["genfuser"] = "genfuser"
    model: str | None = None
    revision: str | None = None
    trained: str | None = None
    expert: str | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str | None = speed_only(None)
    batch_tokens: int | None = speed_only(None, ge=1)
    allow_pickle: bool = speed_only(False)

    @property
    def method(self) -> str:
        """Name of the method: its own, that of its training, or that of its type."""
        return self.name or self.trained or self.type

    @property
    def asked_expert(self) -> str | None:
        """See :class:`AppliedFuser`."""
        return self.expert

    @property
    def asks_engine(self) -> bool:
        """See :class:`WritingFuser`."""
        return self.expert is not None or self.engine == "vllm"

    @model_validator(mode="after")
    def _one_source(self) -> AppliedGenFuser:
        if [self.model, self.trained, self.expert].count(None) != 2:
            raise ValueError("give exactly one of 'model', 'trained' and 'expert'")
        if self.expert is not None and self.engine != "transformers":
            raise ValueError("the recipe of the 'expert' names its engine: leave 'engine' out")
        if self.engine == "vllm" and (self.device, self.batch_tokens) != (None, None):
            raise ValueError("'device' and 'batch_tokens' are for 'engine: transformers'")
        return self


class AppliedAggregate(WritingFuser):
    """An expert that gets the aggregator prompt of Mixture-of-Agents (Wang et al. 2024, table 1).

    With ``rounds: 2`` the expert first writes as many drafts as there are candidates, each from
    all of them with another one first, and then one answer from the drafts. (In the paper the
    drafts of a layer are of different models.)
    """

    type: Literal["aggregate"] = "aggregate"
    expert: str
    rounds: int = Field(1, ge=1, le=2)

    @property
    def asked_expert(self) -> str | None:
        """See :class:`AppliedFuser`."""
        return self.expert


class AppliedConcatenation(AppliedFuser):
    """The candidates one after another, a blank line between them; no model."""

    type: Literal["concatenation"] = "concatenation"


class AppliedEmbedding(AppliedFuser):
    """An embedding fuser with the head ``generate``: writes from the experts' hidden states.

    Exactly one source: ``model`` (a local folder or a Hub id) or ``trained`` (a fuser of this
    run's stage train-gate). It reads the states of the question and no candidate, so ``ranker``
    says only which candidate its answer is held against, and ``top_k`` nothing.
    """

    type: Literal["embedding"] = "embedding"
    model: str | None = None
    trained: str | None = None
    decoding: Decoding = Decoding()
    device: str | None = speed_only(None)
    batch_size: int = speed_only(32, ge=1, description="questions that are decoded together")

    @property
    def method(self) -> str:
        """Name of the method: its own, or that of its training."""
        return self.name or self.trained or self.type

    @model_validator(mode="after")
    def _one_source(self) -> AppliedEmbedding:
        if (self.model is None) == (self.trained is None):
            raise ValueError("give either 'model' or 'trained'")
        if self.decoding.temperature > 0:
            fix = "set temperature to 0"
            raise InvalidValueError("an embedding fuser writes by beam search", fix=fix)
        return self


FuserToApply = Annotated[
    AppliedGenFuser | AppliedAggregate | AppliedConcatenation | AppliedEmbedding,
    Field(discriminator="type"),
]
