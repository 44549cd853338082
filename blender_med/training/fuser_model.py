"""The model of a fuser while it is trained: backbone, adapters, the copy that writes on dev."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blender_med.errors import ConfigError
from blender_med.fusers.loading import CONFIG_KEY, formatter_of, load_model
from blender_med.fusers.prompts import PromptFormatter
from blender_med.training.adapters import (
    quantization_settings,
    ready_for_adapters,
    with_adapters,
)
from blender_med.training.backbone import backbone_source
from blender_med.training.config import Precision
from blender_med.training.fuser_config import FuserJob


class FuserModel(NamedTuple):
    """A model with the formatter of its prompts."""

    model: Any
    formatter: PromptFormatter

    @property
    def is_encoder_decoder(self) -> bool:
        """Of which of the two families it is."""
        return bool(self.model.config.is_encoder_decoder)


def model_to_train(job: FuserJob, precision: Precision) -> FuserModel:
    """The backbone of a job, with adapters where it has them.

    All weights are trained in float32; below adapters they stand still, in ``precision``.

    Raises:
        ConfigError: No such backbone, lengths or adapters that do not fit it, or quantisation
            without CUDA.
        DataError: The backbone's weights are damaged.
        MissingDependencyError: The library of the quantisation is not installed.
    """
    loaded = load_backbone(job, precision, quantized=job.quantization is not None)
    check_lengths(job, loaded)
    if job.lora is None:
        return loaded
    model = loaded.model
    if job.quantization is not None:
        model = ready_for_adapters(model, saves_memory=job.training.gradient_checkpointing)
    return loaded._replace(model=with_adapters(model, job.lora))


def load_backbone(job: FuserJob, precision: Precision, *, quantized: bool = False) -> FuserModel:
    """The backbone with the formatter of a job, on the CPU unless it is quantised."""
    source, revision = backbone_source(job.fuser.backbone, job.fuser.revision)
    dtype = "float32" if job.lora is None else precision
    settings = quantization_settings(str(job.quantization)) if quantized else {}
    settings["allow_pickle"] = job.fuser.allow_pickle
    return _loaded(job, source, revision, dtype, settings)


def trained_model(job: FuserJob, checkpoint: Path, precision: Precision) -> FuserModel:
    """The model of a checkpoint as it will be used, adapters merged."""
    if job.lora is None:
        return _loaded(job, checkpoint, None, "float32", {})
    from peft import PeftModel

    backbone = load_backbone(job, precision)
    adapted = PeftModel.from_pretrained(backbone.model, str(checkpoint))
    return backbone._replace(model=adapted.merge_and_unload().eval())


def _loaded(
    job: FuserJob, source: str | Path, revision: str | None, dtype: str, settings: dict[str, Any]
) -> FuserModel:
    model, tokenizer = load_model(
        source, dtype=dtype, device="cpu", revision=revision, settings=settings
    )
    lengths = {
        "max_length": job.fuser.max_length,
        "candidate_maxlength": job.fuser.candidate_maxlength,
    }
    setattr(model.config, CONFIG_KEY, lengths)
    return FuserModel(model, formatter_of(model.config, tokenizer, lengths))


def writing_copy(model: Any, precision: Precision) -> Any:
    """A copy of a model in training that writes as the trained one will: merged, ``precision``.

    Quantised weights cannot be copied so: the model itself is given.
    """
    if getattr(model, "is_quantized", False):
        return model.eval()
    if hasattr(model, "merge_and_unload"):
        copied = copy.deepcopy(model).merge_and_unload()
    else:
        copied = copy.deepcopy(model, _converted(model, getattr(torch, precision)))
    # SFTTrainer gives the model a forward of its own, which stays bound to the original.
    vars(copied).pop("forward", None)
    return copied.eval()


def _converted(model: Any, dtype: torch.dtype) -> dict[int, Any]:
    """Weights by the identity of those that a copy shall have them in place of."""
    return {
        id(weight): torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        for weight in model.parameters()
    }


def check_lengths(job: FuserJob, loaded: FuserModel) -> None:
    """Check that the prompts and answers of a job fit, whatever the candidates are.

    Raises:
        ConfigError: No candidate fits into a prompt, or a row is longer than the model's
            positions.
    """
    fuser = job.fuser
    longest = "word " * fuser.max_length
    loaded.formatter.encode(longest, longest, [longest] * job.candidates.top_k)
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    row = fuser.target_maxlength + (0 if loaded.is_encoder_decoder else fuser.max_length)
    if positions is not None and row > positions:
        problem = f"a row of {row} tokens is longer than the {positions} positions of the model"
        fix = "lower fuser.max_length or fuser.target_maxlength"
        raise ConfigError(problem, key="fuser.max_length", value=fuser.max_length, fix=fix)
