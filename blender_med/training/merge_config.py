"""What mergekit is asked to do, and whether it can be done; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.engines import model_config_file
from blender_med.store.files import read_json
from blender_med.training.expert_config import MergeJob, Way, named_experts

# Of config.json: what must be equal for weights to be averaged one by one.
_SHAPE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_MIXTURES = ("llama", "mistral")


def mergekit_config(job: MergeJob, folders: Mapping[str, Path]) -> dict[str, Any]:
    """The configuration of mergekit, or for ``moe`` that of mergekit-moe.

    Args:
        job: The recipe.
        folders: Folder of every expert that it names.
    """

    def model(name: str) -> dict[str, Any]:
        return {"model": {"path": str(folders[name])}}

    if job.method == "moe":
        experts = [
            {"source_model": model(one.expert), "positive_prompts": list(one.prompts) or None}
            for one in job.models
        ]
        return {
            "base_model": model(job.base),
            "gate_mode": job.gate,
            "dtype": job.dtype,
            "experts_per_token": job.experts_per_token,
            "experts": experts,
        }
    own = [{"model": model(one.expert), "parameters": _parameters(job, i)}
           for i, one in enumerate(job.models)]  # fmt: skip
    tree: dict[str, Any] = {"merge_method": job.method, "dtype": job.dtype, "models": own}
    if job.method == "slerp":
        return tree | {
            "base_model": model(job.base),
            "models": [{"model": model(job.base)}, {"model": model(job.models[0].expert)}],
            "parameters": {"t": _gradients(job.t)},
        }
    if job.method != "linear":
        tree["base_model"] = model(job.base)
    return tree | {"parameters": {"normalize": job.normalize}}


def _parameters(job: MergeJob, place: int) -> dict[str, float]:
    one = job.models[place]
    return {"weight": one.weight} | ({} if job.method == "linear" else {"density": one.density})


def _gradients(t: Way | dict[str, Way]) -> Any:
    if not isinstance(t, dict):
        return _value(t)
    named = [{"filter": part, "value": _value(way)} for part, way in t.items() if part != "*"]
    return [*named, {"value": _value(t.get("*", 0.5))}]


def _value(way: Way) -> Any:
    return list(way) if isinstance(way, tuple) else way


def check_alike(job: MergeJob, experts: Mapping[str, ExpertConfig]) -> None:
    """Check that the experts are of one architecture, size and vocabulary.

    Reads configurations and tokenizers only.

    Raises:
        ConfigError: They are not, with the first difference.
    """
    shapes = {name: _shape(experts[name]) for name in named_experts(job).values()}
    base = shapes[job.base]
    for key, name in named_experts(job).items():
        for field in _SHAPE:
            if shapes[name].get(field) != base.get(field):
                problem = (
                    f"'{name}' and '{job.base}' cannot be merged: {field} is"
                    f" {shapes[name].get(field)} in one and {base.get(field)} in the other"
                )
                fix = "merge experts that were tuned from one model"
                raise ConfigError(problem, key=key, value=name, fix=fix)
    if job.method == "moe" and base.get("model_type") not in _MIXTURES:
        problem = f"a mixture of {base.get('model_type')} models is no known architecture"
        fix = f"name experts of one of the architectures {', '.join(_MIXTURES)}"
        raise ConfigError(problem, key="method", value=job.method, fix=fix)
    _check_vocabularies(job, experts)


def _shape(expert: ExpertConfig) -> dict[str, Any]:
    file = model_config_file(expert)
    tree = read_json(file) if file is not None else None
    if not isinstance(tree, dict):
        problem = f"the configuration of expert '{expert.name}' is not at hand"
        fix = f"blender-med experts prepare {expert.name}"
        raise ConfigError(problem, key="models", value=expert.name, fix=fix)
    heads = tree.get("num_attention_heads")
    return {"num_key_value_heads": heads} | tree


def _check_vocabularies(job: MergeJob, experts: Mapping[str, ExpertConfig]) -> None:
    from blender_med.experts.local import load_tokenizer

    base = load_tokenizer(experts[job.base]).get_vocab()
    for key, name in named_experts(job).items():
        own = base if name == job.base else load_tokenizer(experts[name]).get_vocab()
        if own != base:
            token = min(
                (t for t in base.keys() | own.keys() if base.get(t) != own.get(t)), key=repr
            )
            problem = (
                f"'{name}' and '{job.base}' have different vocabularies: token {token!r} is"
                f" number {own.get(token)} in one and {base.get(token)} in the other"
            )
            fix = "merge experts that were tuned from one model"
            raise ConfigError(problem, key=key, value=name, fix=fix)
