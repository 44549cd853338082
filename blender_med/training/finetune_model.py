"""The model of an expert while it is tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.local import model_source
from blender_med.models import load_pretrained, quiet
from blender_med.training.adapters import (
    quantization_settings,
    ready_for_adapters,
    with_adapters,
)
from blender_med.training.config import Precision
from blender_med.training.expert_config import FinetuneJob


def model_to_tune(job: FinetuneJob, base: ExpertConfig, precision: Precision) -> Any:
    """The base of a job, with adapters where it has them.

    All weights are trained in float32; below adapters they stand still, in ``precision``.

    Raises:
        ConfigError: No such base, adapters that do not fit it, or a setting that needs CUDA.
        DataError: The base's weights are damaged.
        MissingDependencyError: bitsandbytes or unsloth is not installed.
    """
    if job.backend == "unsloth":
        return _unsloth_model(job, base)
    if job.lora is None:
        return load_base(base, "float32")
    if job.quantization is None:
        return with_adapters(load_base(base, precision), job.lora)
    settings = quantization_settings(job.quantization)
    model = load_base(base, precision, settings)
    saving = job.training.gradient_checkpointing
    return with_adapters(ready_for_adapters(model, saves_memory=saving), job.lora)


def load_base(base: ExpertConfig, dtype: str, settings: dict[str, Any] | None = None) -> Any:
    """Weights of an expert as a causal language model, on the CPU unless ``settings`` say more."""
    from transformers import AutoModelForCausalLM

    source, revision = model_source(base)
    return load_pretrained(
        AutoModelForCausalLM,
        source,
        dtype=dtype,
        allow_pickle=base.allow_pickle,
        revision=revision,
        **(settings or {}),
    )


def save_tuned(
    job: FinetuneJob, base: ExpertConfig, checkpoint: Path, folder: Path, precision: Precision
) -> None:
    """Write what a checkpoint holds as an engine loads it: an adapter, or a whole model.

    A whole model is stored in ``precision``.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if job.lora is None:
        model = load_pretrained(AutoModelForCausalLM, checkpoint, dtype=precision)
    else:
        model = PeftModel.from_pretrained(load_base(base, precision), str(checkpoint))
        if job.save == "merged":
            model = model.merge_and_unload()
    with quiet():
        model.save_pretrained(folder)


def _unsloth_model(job: FinetuneJob, base: ExpertConfig) -> Any:
    """The base with adapters as unsloth loads it.

    Raises:
        ConfigError: This machine has no CUDA.
        MissingDependencyError: unsloth is not installed.
    """
    if not torch.cuda.is_available():
        fix = "set 'backend: trl', or train on a machine with an NVIDIA GPU"
        problem = "unsloth needs CUDA, and this machine has none"
        raise ConfigError(problem, key="backend", value=job.backend, fix=fix)
    try:
        from unsloth import FastLanguageModel  # type: ignore[import-not-found]
    except ImportError as error:
        fix = "pip install unsloth, or set 'backend: trl'"
        problem = "the library of this backend is not installed"
        raise MissingDependencyError(problem, key="backend", value=job.backend, fix=fix) from error
    source, revision = model_source(base)
    model, _ = FastLanguageModel.from_pretrained(
        model_name=source,
        revision=revision,
        max_seq_length=job.max_length,
        load_in_4bit=job.quantization == "4bit",
        load_in_8bit=job.quantization == "8bit",
        use_safetensors=None if base.allow_pickle else True,
    )
    assert job.lora is not None
    modules = job.lora.target_modules
    return FastLanguageModel.get_peft_model(
        model,
        r=job.lora.r,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        use_gradient_checkpointing=job.training.gradient_checkpointing,
        random_state=job.seed,
    )
