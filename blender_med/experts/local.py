"""Experts whose model runs on this machine, in an engine process that several may share."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.errors import BlenderMedError, ExpertError
from blender_med.experts.adapters import check_adapter
from blender_med.experts.base import (
    ChoiceScores,
    Completion,
    Prompt,
    checked_completion,
    finite,
)
from blender_med.experts.config import ExpertConfig, Sampling, StateConfig
from blender_med.experts.engines import on_cuda
from blender_med.experts.hub import commit_hash, download, is_local
from blender_med.experts.made import check_made
from blender_med.experts.packages import package_model_folder
from blender_med.experts.process import EngineProcess
from blender_med.experts.rendering import Renderer, state_budget
from blender_med.experts.requests import (
    ChoiceRequest,
    EngineSpec,
    GenerateRequest,
    StateRequest,
)
from blender_med.experts.revision import base_revision, model_revision
from blender_med.experts.vllm import vllm_environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SharedEngine:
    """The engine of the experts with one ``engine_key``: starts on demand, stops with the last.

    Args:
        engine: ``vllm`` or ``transformers``.
        group: Recipes of the experts that share it; their LoRA adapters are all served.
        verbose: Let its log through.
        device: ``cpu`` or ``cuda:N``; None takes CUDA where there is one.
        states: Which hidden states it gives; None: it generates and scores.
    """

    def __init__(
        self,
        engine: str,
        group: Sequence[ExpertConfig],
        *,
        verbose: bool = False,
        device: str | None = None,
        states: StateConfig | None = None,
    ) -> None:
        self._engine = engine
        self._config, self._group = group[0], tuple(group)
        self._loras = tuple(dict.fromkeys(c.lora for c in group if c.lora))
        self._verbose = verbose
        self._device = device
        self._states = states
        self._process: EngineProcess | None = None
        self._open = {config.name for config in group}
        self._lock = threading.Lock()

    def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Ask the engine on behalf of the expert ``name``; starts it if it does not run."""
        with self._lock:
            self._open.add(name)
            if self._process is None or not self._process.alive:
                self._process = self._start()
            return self._process.call(method, *arguments)

    def close(self, name: str) -> None:
        """The expert ``name`` needs it no longer; the last one stops it."""
        with self._lock:
            self._open.discard(name)
            if self._process is not None and not self._open:
                self._process.stop()
                self._process = None

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None while it does not run."""
        return None if self._process is None else self._process.pid

    def _start(self) -> EngineProcess:
        cuda = on_cuda(self._device)
        folder, commit = model_source(self._config)
        for config in self._group:
            check_adapter(config, Path(folder), base_revision(config), self._engine)
        spec = EngineSpec(
            self._engine, self._config, folder, commit, self._loras, cuda, self._states
        )
        environment = _device_environment(self._device) | _offline(folder)
        if self._engine == "vllm":
            environment |= vllm_environment(cuda, self._verbose)
        return EngineProcess(spec, environment=environment, verbose=self._verbose)


def model_source(config: ExpertConfig) -> tuple[str, str | None]:
    """Folder or Hub id of the model, and the commit of a Hub id; converts a package's GGUF.

    Raises:
        NotMadeError: The job that makes the model has not run.
    """
    check_made(config)
    if config.package is not None:
        return str(package_model_folder(config)), None
    model = str(config.model)
    if is_local(model):
        return str(Path(model).expanduser()), None
    return model, commit_hash(model, config.revision)


def fetch_weights(config: ExpertConfig) -> str:
    """Have the weights on this machine; returns their folder, or the server's address.

    Raises:
        ExpertError: The Hub does not give them.
    """
    if config.openai is not None:
        return config.openai.base_url
    if config.engine == "fake":
        return "no weights"
    model, commit = model_source(config)
    return model if is_local(model) else download(model, commit)


def _device_environment(device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    kind, _, index = device.partition(":")
    return {"CUDA_VISIBLE_DEVICES": (index or "0") if kind == "cuda" else ""}


def _offline(model: str) -> dict[str, str]:
    """A local folder needs no network, and asking the Hub about it costs seconds."""
    return {"HF_HUB_OFFLINE": "1"} if is_local(model) else {}


class LocalExpert:
    """An expert of the engines ``vllm`` and ``transformers``."""

    def __init__(self, config: ExpertConfig, engine: SharedEngine) -> None:
        self.config = config
        self._engine = engine

    @cached_property
    def revision(self) -> str:
        """Identity of the weights."""
        return model_revision(self.config)

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None while it does not run."""
        return self._engine.pid

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.config, load_tokenizer(self.config))

    def render(self, question: Any, max_tokens: int) -> Prompt:
        """Prompt for a generated answer that leaves room for ``max_tokens``."""
        return self._renderer.render(question, max_tokens)

    def render_choices(self, question: Any) -> tuple[Prompt, tuple[str, ...]]:
        """Prompt and choices of the protocol ``lm_eval``."""
        return self._renderer.render_choices(question)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """``n`` completions for each prompt, [n_prompts][n]."""
        if not prompts:
            return []
        requests = [
            GenerateRequest(
                self._renderer.encode(prompt), seed, self.config.lora, prompt.stop_token_ids
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        rows = self._engine.call(self.config.name, "generate", requests, sampling, n)
        with self._sane():
            return [
                [checked_completion(made) for made, _ in zip(row, range(n), strict=True)]
                for row, _ in zip(rows, requests, strict=True)
            ]

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Log-likelihood of each choice after each prompt."""
        if not prompts:
            return []
        requests = [
            self._choice_request(prompt, tuple(own))
            for prompt, own in zip(prompts, choices, strict=True)
        ]
        rows = self._engine.call(self.config.name, "choice_logprobs", requests)
        with self._sane():
            return [
                ChoiceScores(_finite(row, len(request.choices)), len(request.token_ids))
                for row, request in zip(rows, requests, strict=True)
            ]

    @contextmanager
    def _sane(self) -> Iterator[None]:
        """Nothing that is no answer gets into the cache or the shards."""
        try:
            yield
        except (ValueError, TypeError) as error:
            problem = f"the engine of expert '{self.config.name}' returned garbage: {error}"
            fix = "run again with --verbose; weights may be damaged, or the number format too small"
            raise ExpertError(problem, fix=fix) from error

    def _choice_request(self, prompt: Prompt, choices: tuple[str, ...]) -> ChoiceRequest:
        ids, own = self._renderer.encode_choices(prompt, choices)
        if not ids or not all(own):
            problem = f"expert '{self.config.name}': a choice has no tokens of its own"
            raise ExpertError(problem, value=choices, fix="check the options of the question")
        return ChoiceRequest(ids, own, self.config.lora)

    def render_states(
        self, question: Any, *, option: int | None = None, answer: str | None = None
    ) -> Prompt:
        """Text whose states stand for a question, with one of its options or an answer."""
        return self._renderer.render_states(question, option=option, answer=answer)

    def hidden_states(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Hidden states of each text, [slots, width]; of a text too long its end is read."""
        if not prompts:
            return []
        longest = state_budget(self.config)
        requests = [
            StateRequest(self._renderer.encode(prompt)[-longest:], self.config.lora)
            for prompt in prompts
        ]
        rows: list[NDArray[np.float32]] = self._engine.call(
            self.config.name, "hidden_states", requests
        )
        return rows

    def close(self) -> None:
        """Give the engine up; it stops when no expert needs it."""
        self._engine.close(self.config.name)


def _finite(row: Any, choices: int) -> tuple[float, ...]:
    return tuple(finite(value) for value, _ in zip(row, range(choices), strict=True))


def load_tokenizer(config: ExpertConfig) -> Any:
    """Hugging Face tokenizer of an expert.

    Raises:
        ExpertError: The folder or Hub id has none that can be read.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import AutoTokenizer

    folder, commit = model_source(config)
    source, commit = (config.tokenizer, None) if config.tokenizer else (folder, commit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoTokenizer.from_pretrained(
                source, revision=commit, trust_remote_code=config.trust_remote_code
            )
    except BlenderMedError:
        raise
    except Exception as error:  # what a broken folder raises depends on the tokenizer
        problem = f"the tokenizer of expert '{config.name}' cannot be loaded: {error}"
        fix = "check that the folder holds the tokenizer's files, or name it under 'tokenizer'"
        raise ExpertError(problem, key="model", value=source, fix=fix) from error
