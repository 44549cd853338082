"""The vLLM engine, as it runs inside its process (offline, one engine)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.errors import ExpertError
from blender_med.experts.adapters import adapter_rank
from blender_med.experts.base import Completion
from blender_med.experts.config import ExpertConfig, Sampling, StateConfig
from blender_med.experts.engines import resolved_dtype
from blender_med.experts.pooling import pooled
from blender_med.experts.requests import (
    ChoiceRequest,
    EngineSpec,
    GenerateRequest,
    StateRequest,
    Tick,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_SHARED_BLOCK = 32  # tokens; the CPU backend asks for a multiple of it
_BATCHED_TOKENS = 8192
_GIB = 1 << 30
_TEXT_TASK, _TOKEN_TASK = "embed", "token_embed"


def vllm_environment(cuda: bool, verbose: bool) -> dict[str, str]:
    """Variables that must be set before vLLM is imported.

    The engine core runs in our process: scheduling is then deterministic, start-up on a CPU is
    5 s instead of 26 s, and the CPU engine uses every core.
    """
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    if not verbose:
        own |= {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}
    if not cuda:
        own["VLLM_CPU_KVCACHE_SPACE"] = str(_kv_cache_gib())
    return own


def _kv_cache_gib() -> int:
    """An eighth of the memory: a fixed size, because it decides how requests are batched.

    Less only where less than twice that is free now.
    """
    page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    return max(1, min(total * page // 8, free // 2) // _GIB)


def vllm_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``; ``engine_options`` of the recipe go on top."""
    config = spec.config
    arguments: dict[str, Any] = {
        "model": spec.model,
        "revision": spec.revision,
        "tokenizer": config.tokenizer,
        "dtype": resolved_dtype(config, cuda=spec.cuda),
        "quantization": config.quantization,
        "max_model_len": config.max_model_len,
        "trust_remote_code": config.trust_remote_code,
        "load_format": None if _needs_own_loader(config) else "safetensors",
        "seed": 0,
        "disable_log_stats": True,
        **_lora_arguments(spec.loras),
    }
    if spec.cuda:
        arguments["tensor_parallel_size"] = config.tensor_parallel_size
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    else:
        arguments |= _cpu_arguments(config, spec.states)
    return arguments | config.engine_options


def _needs_own_loader(config: ExpertConfig) -> bool:
    return config.allow_pickle or config.quantization == "bitsandbytes"


def _cpu_arguments(config: ExpertConfig, states: StateConfig | None) -> dict[str, Any]:
    # A seeded request fails on a CPU when its prompt is prefilled in chunks, so never chunk.
    arguments: dict[str, Any] = {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_BATCHED_TOKENS, config.max_model_len),
    }
    # The options of a question share whole blocks of its prompt; 128 tokens, vLLM's own choice
    # on a CPU, are longer than most questions.
    return arguments if states is None else arguments | {"block_size": _SHARED_BLOCK}


def _lora_arguments(loras: Sequence[str]) -> dict[str, Any]:
    """Settings of the adapters.

    With ``max_loras`` equal to the number of adapters, vLLM 0.32 gives the base model's rows of
    a mixed batch the last adapter's output; one slot more is right.
    """
    if not loras:
        return {}
    rank = max(_rank(lora) for lora in loras)
    fitting = next((r for r in _LORA_RANKS if r >= rank), rank)
    return {"enable_lora": True, "max_loras": len(loras) + 1, "max_lora_rank": fitting}


def _rank(lora: str) -> int:
    return adapter_rank(
        json.loads((Path(lora) / "adapter_config.json").read_text(encoding="utf-8"))
    )


def _pooling_arguments(states: StateConfig) -> dict[str, Any]:
    """Settings of the pooling runner: states after the final norm, neither scaled nor cut."""
    from vllm.config import PoolerConfig

    if states.pooling == "slots":
        config = PoolerConfig(task=_TOKEN_TASK, use_activation=False)
    else:
        kind: Any = states.pooling.upper()
        config = PoolerConfig(seq_pooling_type=kind, use_activation=False)
    return {"runner": "pooling", "convert": "embed", "pooler_config": config}


class VllmEngine:
    """vLLM's offline engine behind the protocol of ``requests.Engine``."""

    def __init__(self, spec: EngineSpec) -> None:
        from vllm import LLM

        arguments = vllm_arguments(spec)
        self._states = spec.states
        if spec.states is not None:
            arguments |= _pooling_arguments(spec.states)
        self._adapters = {path: number for number, path in enumerate(spec.loras, start=1)}
        self._llm = LLM(**{k: v for k, v in arguments.items() if v is not None})
        self._step = self._llm.llm_engine.step

    def generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, n: int, tick: Tick
    ) -> list[list[Completion]]:
        """Completions, [n_requests][n]; equal requests in equal order give equal texts."""
        settings = [_sampling_params(sampling, n, request) for request in requests]
        outputs = self._run(requests, settings, tick)
        return [[_completion(output, one) for one in output.outputs] for output in outputs]

    def choice_logprobs(self, requests: Sequence[ChoiceRequest], tick: Tick) -> list[list[float]]:
        """Log-likelihoods, [n_requests][n_choices].

        Choices of one token are read off the prompt's last position; longer ones cost a
        forward pass of prompt and choice each.
        """
        single = [request for request in requests if request.single_token]
        longer = [request for request in requests if not request.single_token]
        tokens = iter(self._score_tokens(single, tick))
        texts = iter(self._score_texts(longer, tick))
        return [next(tokens if request.single_token else texts) for request in requests]

    def _score_tokens(self, requests: Sequence[ChoiceRequest], tick: Tick) -> list[list[float]]:
        from vllm import SamplingParams

        ids = [[choice[0] for choice in request.choices] for request in requests]
        settings = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=own, detokenize=False)
            for own in ids
        ]
        outputs = self._run(requests, settings, tick)
        return [
            [float(output.outputs[0].logprobs[0][token].logprob) for token in own]
            for output, own in zip(outputs, ids, strict=True)
        ]

    def _score_texts(self, requests: Sequence[ChoiceRequest], tick: Tick) -> list[list[float]]:
        from vllm import SamplingParams

        whole = [
            GenerateRequest([*request.token_ids, *choice], 0, request.lora)
            for request in requests
            for choice in request.choices
        ]
        setting = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        outputs = iter(self._run(whole, [setting] * len(whole), tick))
        return [
            [_suffix_logprob(next(outputs), len(choice)) for choice in request.choices]
            for request in requests
        ]

    def hidden_states(
        self, requests: Sequence[StateRequest], tick: Tick
    ) -> list[NDArray[np.float32]]:
        """States, [slots, width] for each request; pooled by vLLM but for slots."""
        states = self._states
        if states is None:
            raise ExpertError("the engine was not started for states", fix="load it with 'states'")
        self._prepare(tick)
        outputs = self._llm.encode(
            [{"prompt_token_ids": request.token_ids} for request in requests],
            pooling_task=_TOKEN_TASK if states.pooling == "slots" else _TEXT_TASK,
            lora_request=self._loras(requests),
            use_tqdm=False,
        )
        rows = [output.outputs.data.float() for output in outputs]
        if states.pooling == "slots":
            return [pooled(row, states).numpy() for row in rows]
        return [row[None].numpy() for row in rows]

    def _run(
        self, requests: Sequence[GenerateRequest | ChoiceRequest], settings: list[Any], tick: Tick
    ) -> list[Any]:
        if not requests:
            return []
        self._prepare(tick)
        prompts: Any = [{"prompt_token_ids": request.token_ids} for request in requests]
        adapters = self._loras(requests)
        return list(self._llm.generate(prompts, settings, lora_request=adapters, use_tqdm=False))

    def _prepare(self, tick: Tick) -> None:
        # What an earlier call left in the cache would change how this one is batched.
        self._llm.reset_prefix_cache()
        engine: Any = self._llm.llm_engine
        engine.step = self._stepper(tick)

    def _loras(
        self, requests: Sequence[GenerateRequest | ChoiceRequest | StateRequest]
    ) -> Any | None:
        loras = [self._lora(request.lora) for request in requests]
        return loras if any(loras) else None

    def _stepper(self, tick: Tick) -> Any:
        def step() -> Any:
            tick()
            return self._step()

        return step

    def _lora(self, path: str | None) -> Any:
        if path is None:
            return None
        from vllm.lora.request import LoRARequest

        # vLLM takes requests of one name for one adapter, and many folders are named "adapter".
        return LoRARequest(path, self._adapters[path], path)


def _sampling_params(sampling: Sampling, n: int, request: GenerateRequest) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        n=n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(request.stop_token_ids) or None,
        seed=request.seed if sampling.temperature > 0 else None,
        logprobs=0 if sampling.logprobs else None,
    )


def _completion(output: Any, one: Any) -> Completion:
    loss = None if one.cumulative_logprob is None else float(one.cumulative_logprob)
    reason = one.finish_reason or "stop"
    return Completion(one.text, reason, len(output.prompt_token_ids), len(one.token_ids), loss)


def _suffix_logprob(output: Any, length: int) -> float:
    ids, table = output.prompt_token_ids[-length:], output.prompt_logprobs[-length:]
    return float(sum(row[token].logprob for token, row in zip(ids, table, strict=True)))
