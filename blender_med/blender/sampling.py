"""Several answers to each prompt from a transformers model or from vLLM."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from blender_med.blender.arguments import check_choice
from blender_med.errors import ConfigError

Settings = dict[str, Any]

_MODES: dict[str, Settings] = {
    "top_p_sampling": {"do_sample": True, "top_p": 1.0, "temperature": 0.7},
    "top_k_sampling": {"do_sample": True, "top_k": 50, "temperature": 0.7},
}
# Tokenizers without a limit give a number near 10^30.
_NO_LIMIT = 10**6


def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    n: int,
    sampling_mode: str | None,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    show_progress: bool,
) -> list[list[str]]:
    """Draw n answers to each prompt; see :meth:`blender_med.Blender.n_generate`.

    Raises:
        ConfigError: Unknown ``sampling_mode``, ``n`` is below 1, or a setting does not fit.
    """
    if n < 1:
        raise ConfigError("no answer asked for", key="n", value=n, fix="give at least 1")
    if "num_return_sequences" in settings:
        fix = "leave it out and set n"
        value = settings["num_return_sequences"]
        raise ConfigError("n decides", key="num_return_sequences", value=value, fix=fix)
    own = sampling_settings(sampling_mode, settings)
    if type(model).__module__.partition(".")[0] == "vllm":
        return _from_vllm(model, prompts, n, own, show_progress)
    return _from_transformers(model, tokenizer, prompts, n, own, batch_size, show_progress)


def sampling_settings(sampling_mode: str | None, given: Mapping[str, Any]) -> Settings:
    """Settings of a sampling mode; those given come first. None: just those.

    Raises:
        ConfigError: There is no such mode.
    """
    if sampling_mode is None:
        return dict(given)
    check_choice("sampling_mode", sampling_mode, _MODES)
    return _MODES[sampling_mode] | dict(given) | {"do_sample": True}


def _from_transformers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    n: int,
    settings: Settings,
    batch_size: int,
    show_progress: bool,
) -> list[list[str]]:
    from tqdm.auto import tqdm

    limit = _most_tokens(model, tokenizer)
    if "max_new_tokens" not in settings:
        settings = {"max_length": limit} | settings
        if settings["max_length"] is None:
            fix = "give max_new_tokens"
            raise ConfigError("the model names no limit", key="max_new_tokens", fix=fix)
    answers: list[list[str]] = []
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc="Sampling generations", disable=not show_progress):
        own = list(prompts[start : start + batch_size])
        texts = _generated(model, tokenizer, own, limit, settings | {"num_return_sequences": n})
        answers += [texts[i : i + n] for i in range(0, len(texts), n)]
    return answers


def _generated(
    model: Any, tokenizer: Any, prompts: list[str], limit: int | None, settings: Settings
) -> list[str]:
    """Answers to the prompts of one batch, n after n."""
    is_decoder = not model.config.is_encoder_decoder
    pad_token = tokenizer.pad_token
    tokenizer.pad_token = pad_token or tokenizer.eos_token
    try:
        encoded = tokenizer(
            prompts, return_tensors="pt", padding=True, truncation=limit is not None,
            max_length=limit, padding_side="left" if is_decoder else "right",
            return_token_type_ids=False,
        ).to(model.device)  # fmt: skip
        ids = model.generate(**encoded, pad_token_id=tokenizer.pad_token_id, **settings)
    finally:
        tokenizer.pad_token = pad_token
    answers = ids[:, encoded["input_ids"].shape[1] :] if is_decoder else ids
    return list(tokenizer.batch_decode(answers, skip_special_tokens=True))


def _most_tokens(model: Any, tokenizer: Any) -> int | None:
    """Tokens that tokenizer and model can take; None where neither has a limit."""
    positions = getattr(model.config, "max_position_embeddings", None) or math.inf
    limit = min(tokenizer.model_max_length, positions)
    return int(limit) if limit < _NO_LIMIT else None


def _from_vllm(
    model: Any, prompts: Sequence[str], n: int, settings: Settings, show_progress: bool
) -> list[list[str]]:
    from vllm import SamplingParams

    params = SamplingParams(n=n, **vllm_settings(settings, inspect.signature(SamplingParams)))
    outputs = model.generate(list(prompts), params, use_tqdm=show_progress)
    return [[answer.text for answer in output.outputs] for output in outputs]


def vllm_settings(settings: Settings, signature: inspect.Signature) -> Settings:
    """Settings of ``transformers``' generate under their names in vLLM.

    Args:
        settings: ``max_new_tokens`` (or ``max_length``) becomes ``max_tokens``; without any the
            model's context is the limit. ``do_sample=False`` becomes temperature 0.
        signature: Of vLLM's SamplingParams.

    Raises:
        ConfigError: vLLM has no such setting.
    """
    own = dict(settings)
    limits = [own.pop(name, None) for name in ("max_tokens", "max_new_tokens", "max_length")]
    own["max_tokens"] = next((limit for limit in limits if limit is not None), None)
    if not own.pop("do_sample", True):
        own["temperature"] = 0.0
    for name, value in own.items():
        if name not in signature.parameters:
            fix = "use a setting of vllm.SamplingParams"
            raise ConfigError("vLLM has no such setting", key=name, value=value, fix=fix)
    return own
