"""Low-rank adapters, and the quantised weights that they may be put on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from blender_med.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from blender_med.training.fuser_config import LoRA


def with_adapters(model: Any, lora: LoRA) -> Any:
    """``model`` with adapters on its linear layers, which alone are trained.

    Raises:
        ConfigError: It has no layers of the names in ``target_modules``.
    """
    from peft import LoraConfig, get_peft_model

    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    modules = lora.target_modules
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type=kind,
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        fix = "name linear layers of the backbone, such as [q_proj, v_proj], or all-linear"
        key = "lora.target_modules"
        raise ConfigError(f"no adapters: {error}", key=key, value=modules, fix=fix) from error


def ready_for_adapters(model: Any, *, saves_memory: bool) -> Any:
    """A quantised model made ready to be trained below adapters.

    Args:
        model: Loaded with :func:`quantization_settings`.
        saves_memory: Whether gradient checkpointing is on.
    """
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=saves_memory)


def quantization_settings(value: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load weights in 8 or 4 bits.

    Args:
        value: ``8bit`` or ``4bit`` (nf4 with double quantisation, as QLoRA: Dettmers et al. 2023).

    Raises:
        ConfigError: This machine has no CUDA.
        MissingDependencyError: bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        fix = "leave 'quantization' out, or train on a machine with an NVIDIA GPU"
        problem = "quantised training needs CUDA, and this machine has none"
        raise ConfigError(problem, key="quantization", value=value, fix=fix)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        fix = "pip install bitsandbytes"
        problem = "the library of quantised training is not installed"
        raise MissingDependencyError(problem, key="quantization", value=value, fix=fix) from error
    from transformers import BitsAndBytesConfig

    if value == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}
