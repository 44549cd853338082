"""Recipes of the jobs that make experts; light, nothing is trained or loaded here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from blender_med.config import InvalidValueError, Recipe, load_yaml, parse, speed_only
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.experts.made import ExpertJob, Save
from blender_med.registry import suggestion
from blender_med.training.config import TrainingSettings, recipe_file
from blender_med.training.fuser_config import LoRA

ENGINE_RANK = 512  # the highest rank of an adapter that vLLM serves


class TuningSource(DatasetConfig):
    """One data set of a mix.

    ``weight`` is how often each question stands in an epoch; of a fraction, that share of the
    questions does.
    """

    weight: float = Field(1.0, gt=0)


class TuningData(Recipe):
    """Questions with answers to learn from.

    Test questions are never learned. A data set without a dev split gives a twentieth of its
    documents to dev. ``hold_out`` is a run directory whose questions and documents are left out;
    in a pipeline that is the run itself.
    """

    sources: tuple[TuningSource, ...] = Field(min_length=1)
    hold_out: str | None = speed_only(None)  # what is left shows in the hash of the examples


class TuningSettings(TrainingSettings):
    """How an expert is tuned; measured by the mean log-probability of the dev answers' tokens.

    ``max_steps`` ends training before ``epochs`` do; ``evaluate_every`` then counts in parts of
    ``max_steps`` in place of epochs. A step averages the loss over the tokens of its answers.
    """

    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(16, ge=1, description="questions per step")
    micro_batch_size: int = speed_only(4, ge=1, description="questions per forward pass")
    optimizer: Literal["adafactor", "adamw"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    evaluate_every: float = Field(0.5, gt=0, description="epochs, or parts of max_steps")
    max_dev_questions: int | None = Field(100, ge=1)

    def total_steps(self, examples: int) -> int:
        """Steps of a training that is not stopped early."""
        steps = super().total_steps(examples)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def evaluation_steps(self, examples: int) -> int:
        """Steps from one measurement to the next; the last step is measured at the latest."""
        total = self.total_steps(examples)
        if self.max_steps is None:
            return min(super().evaluation_steps(examples), total)
        least = 2 if self.warmup_steps(examples) else 1
        return min(max(least, math.ceil(self.evaluate_every * total)), total)


class FinetuneJob(ExpertJob):
    """Tunes an expert on questions with answers (``job: finetune``).

    ``lora`` null trains all weights. ``quantization`` loads the base below the adapters in 8 or 4
    bits (QLoRA; CUDA only). ``backend: unsloth`` trains with that library (CUDA only). ``save``
    writes the adapter alone, or a whole model, which is served at full speed. Prompts are those of
    the expert itself, of at most ``max_length`` tokens with the answer, which has at most
    ``answer_length``. ``protocol`` says how a multiple-choice question is put. ``packing`` joins
    several answers in one row in place of padding.
    """

    job: Literal["finetune"]
    seed: int = Field(0, ge=0, lt=2**31)
    data: TuningData | None = None
    lora: LoRA | None = LoRA()
    quantization: Literal["8bit", "4bit"] | None = None
    backend: Literal["trl", "unsloth"] = "trl"
    save: Save = "merged"
    protocol: Literal["generative", "lm_eval"] = "generative"
    max_length: int = Field(512, ge=16)
    answer_length: int = Field(256, ge=1)
    packing: bool = speed_only(False)
    written_questions: int = Field(16, ge=0, description="dev questions answered for the card")
    training: TuningSettings = TuningSettings()

    @model_validator(mode="after")
    def _possible(self) -> FinetuneJob:
        if self.answer_length >= self.max_length:
            raise ValueError("'answer_length' leaves no room for a prompt in 'max_length'")
        needing = {
            "quantization": bool(self.quantization),
            "save: adapter": self.save == "adapter",
            "backend: unsloth": self.backend == "unsloth",
        }
        for setting, is_set in needing.items():
            if is_set and self.lora is None:
                raise ValueError(f"'{setting}' needs 'lora'")
        if self.lora and self.save == "adapter" and self.lora.r > ENGINE_RANK:
            fix = f"lower lora.r to {ENGINE_RANK} at most, or set 'save: merged'"
            problem = f"vLLM serves no adapter of rank {self.lora.r}"
            raise InvalidValueError(problem, fix=fix)
        return self


Share = Annotated[float, Field(ge=0, le=1)]
# A number, or several that stand for the layers from the first to the last.
Way = Share | Annotated[tuple[Share, ...], Field(min_length=2)]


class MergedModel(Recipe):
    """One expert that goes into a merge.

    ``weight`` is its share (of its difference to the base, but for ``linear``), ``density`` the
    share of the differences that ``ties`` and ``dare_ties`` keep, ``prompts`` what ``moe`` sends
    to it.
    """

    expert: str
    weight: float = 1.0
    density: float = Field(1.0, gt=0, le=1)
    prompts: tuple[str, ...] = ()


class MergeJob(ExpertJob):
    """Merges experts of one architecture with mergekit (``job: merge``).

    ``linear`` averages the weights. ``slerp`` goes from ``base`` to the one model, ``t`` of the way
    (several numbers: from the first layer to the last; a mapping: by a part of the weights' names,
    ``"*"`` for all others). ``ties`` and ``dare_ties`` add what the models have learned to
    ``base``. ``moe`` makes a mixture whose experts are the models' feed-forward layers, with
    ``experts_per_token`` of them at work and everything else from ``base``. The tokenizer is that
    of ``base``. ``seed`` draws what ``dare_ties`` drops and random gates.
    """

    job: Literal["merge"]
    method: Literal["linear", "slerp", "ties", "dare_ties", "moe"]
    models: tuple[MergedModel, ...] = Field(min_length=1)
    t: Way | dict[str, Way] = 0.5
    normalize: bool = Field(True, description="linear, ties, dare_ties: weights sum to 1")
    gate: Literal["random", "cheap_embed", "hidden"] = "cheap_embed"
    experts_per_token: int = Field(2, ge=1)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _enough(self) -> MergeJob:
        names = [model.expert for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("an expert stands twice in 'models'")
        if self.method == "slerp" and len(names) != 1:
            raise ValueError("'slerp' merges 'base' with exactly one model")
        if self.method in ("linear", "moe") and len(names) < 2:
            raise ValueError(f"'{self.method}' merges two models at least")
        if (
            self.method == "moe"
            and self.gate != "random"
            and not all(model.prompts for model in self.models)
        ):
            raise ValueError("each model of a 'moe' needs 'prompts', or set 'gate: random'")
        return self


class Calibration(Recipe):
    """Text that a quantisation looks at: questions with their answers, as the expert reads them."""

    source: TuningSource
    samples: int = Field(128, ge=1)
    max_length: int = Field(512, ge=16)


class QuantiseJob(ExpertJob):
    """Quantises an expert with llm-compressor (``job: quantise``), for vLLM.

    ``W8A8`` stores weights in 8 bits and computes in them (SmoothQuant and GPTQ); ``AWQ`` and
    ``GPTQ`` store weights in 4 bits. ``measured_questions`` dev questions are answered before and
    after, for the card.
    """

    job: Literal["quantise"]
    scheme: Literal["W8A8", "AWQ", "GPTQ"]
    calibration: Calibration
    group_size: Literal[32, 64, 128] = 128
    seed: int = Field(0, ge=0, lt=2**31)
    measured_questions: int = Field(32, ge=0)


AnyExpertJob = Annotated[FinetuneJob | MergeJob | QuantiseJob, Field(discriminator="job")]
_KINDS: Mapping[str, type[ExpertJob]] = {
    "finetune": FinetuneJob,
    "merge": MergeJob,
    "quantise": QuantiseJob,
}


def load_expert_job(
    source: str | Path | Mapping[str, Any], *, file: str | Path | None = None, key: str = ""
) -> FinetuneJob | MergeJob | QuantiseJob:
    """A job that makes an expert, checked as far as that goes without loading a model.

    Args:
        source: Name or path of a recipe in ``experts/``, or its plain data.
        file: Where plain data come from, for messages.
        key: Where they stand in the calling recipe, for messages.

    Raises:
        ConfigError: No such recipe, it is not valid, or an expert that it names is not there or
            has no weights of its own.
    """
    if not isinstance(source, Mapping):
        file = recipe_file(source, "experts")
        source = load_yaml(file)
    prefix = f"{key}." if key else ""
    kind = str(source.get("job"))
    if kind not in _KINDS:
        fix = suggestion(kind, list(_KINDS))
        raise ConfigError("no such job", file=file, key=f"{prefix}job", value=kind, fix=fix)
    job: Any = parse(_KINDS[kind], source, file=file, key=key)
    for place, one in tuning_sources(job):
        check_tuning_source(one, f"{prefix}{place}", file)
    return job


def tuning_sources(job: ExpertJob) -> list[tuple[str, TuningSource]]:
    """Data sets that a job reads, each with the key at which it stands."""
    if isinstance(job, FinetuneJob) and job.data is not None:
        return [(f"data.sources.{i}", one) for i, one in enumerate(job.data.sources)]
    if isinstance(job, QuantiseJob):
        return [("calibration.source", job.calibration.source)]
    return []


def check_tuning_source(source: TuningSource, key: str, file: str | Path | None) -> None:
    """Check the type and the options of a data set.

    Raises:
        ConfigError: It holds passages, or has no such option or column.
    """
    loader = DATASETS.load(source.type)
    if loader.record.__name__ != "Question":
        fix = "name a type of questions; passages have no answers"
        problem = "an expert learns from questions, this type holds passages"
        raise ConfigError(problem, file=file, key=f"{key}.type", value=source.type, fix=fix)
    try:
        loader(source)
    except ConfigError as error:
        place = f"{key}.{str(error.key).removeprefix('dataset.')}"
        raise ConfigError(error.problem, file=file, key=place, fix=error.fix) from error


def named_experts(job: ExpertJob) -> dict[str, str]:
    """Experts that a job starts from: key at which each stands, and its name."""
    named = {"base": job.base}
    if isinstance(job, MergeJob):
        named |= {f"models.{i}.expert": model.expert for i, model in enumerate(job.models)}
    return named


def job_experts(
    job: ExpertJob, made: Mapping[str, ExpertConfig] | None = None
) -> dict[str, ExpertConfig]:
    """Recipes of the experts that a job starts from, by name.

    Args:
        job: The job.
        made: Experts that the same run makes; they come before recipes of the same name.

    Raises:
        ConfigError: There is no such expert, or it has no whole weights on this machine or the Hub.
    """
    found: dict[str, ExpertConfig] = {}
    for key, name in named_experts(job).items():
        found[name] = (made or {}).get(name) or load_expert_config(name, key=key)
        check_whole(found[name], key)
    return found


def check_whole(expert: ExpertConfig, key: str) -> None:
    """Check that an expert has weights that a job can start from.

    Raises:
        ConfigError: It runs on a server, is a stand-in, an adapter or quantised.
    """
    if expert.engine in ("fake", "openai"):
        problem, fix = "this expert has no weights here", "name one that runs on this machine"
    elif expert.lora is not None:
        problem = "this expert is an adapter, not a whole model"
        fix = "set 'save: merged' in its recipe, and make it again"
    elif expert.quantization is not None:
        problem, fix = "this expert is quantised", "name the one it was made from"
    else:
        return
    raise ConfigError(problem, key=key, value=expert.name, fix=fix)
