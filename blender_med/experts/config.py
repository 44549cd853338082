"""Recipe of one expert model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blender_med.config import InvalidValueError, Recipe, speed_only
from blender_med.errors import SECRET_NAME

Engine = Literal["auto", "vllm", "transformers", "openai", "fake"]
Quantization = Literal[
    "awq",
    "gptq",
    "bitsandbytes",
    "bitsandbytes-8bit",
    "compressed-tensors",
    "int8_per_channel_weight_only",
]


LAST_LAYER = -1


class Sampling(Recipe):
    """How a text is generated; every field affects the result.

    ``temperature`` 0 is greedy decoding. ``seed`` starts the per-request generator.
    """

    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 keeps the whole vocabulary")
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(1.0, gt=0.0)
    max_tokens: int = Field(256, ge=1)
    stop: tuple[str, ...] = ()
    logprobs: bool = Field(
        False, description="also logprob_sum; costs a softmax over the vocabulary per token"
    )


class StateConfig(Recipe):
    """Which hidden states of a text are kept.

    ``pooling``: the ``last`` token's, the ``mean`` of all, or all of them averaged down (or
    repeated up) to a fixed number of ``slots``, which does not depend on the tokenizer.
    ``layer`` counts as in transformers: -1 is the last, after the final norm; 0 the embeddings.
    """

    pooling: Literal["last", "mean", "slots"] = "last"
    slots: int = Field(1, ge=1)
    layer: int = LAST_LAYER

    @model_validator(mode="after")
    def _slots_of_their_own(self) -> StateConfig:
        if (self.pooling == "slots") != (self.slots > 1):
            raise ValueError("'pooling: slots' and a number of 'slots' above 1 go together")
        return self


class OpenAIServer(Recipe):
    """An OpenAI-compatible server (``engine: openai``), first of all ``vllm serve``.

    The API key is read from the environment variable named by ``api_key_env``; a key never
    stands in a recipe.
    """

    base_url: str = Field(pattern=r"^https?://")
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    timeout: float = speed_only(60.0, gt=0, description="seconds per request")
    retries: int = speed_only(5, ge=0)
    concurrency: int = speed_only(16, ge=1)
    requests_per_minute: int | None = speed_only(None, ge=1)

    @field_validator("base_url")
    @classmethod
    def _without_key(cls, value: str) -> str:
        if re.search(r"@|\?", value):
            fix = "put the key into an environment variable and name that under api_key_env"
            raise InvalidValueError("a user, password or query stands in the address", fix=fix)
        return value


class ExpertConfig(Recipe):
    """One expert: which model, how it is run, how it is prompted.

    Exactly one source of weights: ``model`` (local folder or Hub id) or ``package`` with
    ``file`` (a GGUF inside a Python package, converted once). The fake engine has none.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = speed_only("")
    license: str = speed_only("")
    engine: Engine = "auto"
    model: str | None = None
    revision: str | None = None
    package: str | None = None
    file: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    tokenizer: str | None = None
    lora: str | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: Quantization | None = None
    max_model_len: int = Field(2048, ge=16)
    chat: bool | None = Field(None, description="None: use the chat template when there is one")
    template: str = Field("qa", description="name of the plain template without a chat template")
    system: str | None = None
    sampling: dict[str, Any] = Field(default_factory=dict, description="overrides of the stage's")
    trust_remote_code: bool = False
    allow_pickle: bool = speed_only(False, description="read weights that are no safetensors")
    engine_options: dict[str, Any] = Field(default_factory=dict)
    openai: OpenAIServer | None = None
    made_by: str | None = speed_only(None, description="what makes the weights")
    tensor_parallel_size: int = speed_only(1, ge=1)
    gpu_memory_utilization: float = speed_only(0.9, gt=0, le=1)
    batch_size: int = speed_only(16, ge=1, description="transformers engine only")

    @field_validator("package")
    @classmethod
    def _package_requirement(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]+(==[A-Za-z0-9.+!]+)?", value):
            raise ValueError("a package is written name or name==version")
        return value

    @field_validator("model", "tokenizer", "lora")
    @classmethod
    def _without_tilde(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    @field_validator("sampling")
    @classmethod
    def _known_sampling(cls, value: dict[str, Any]) -> dict[str, Any]:
        Sampling.model_validate(value)
        return value

    @field_validator("engine_options")
    @classmethod
    def _without_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        if name := _secret_in(value):
            fix = "remove it; keys come from the environment, such as HF_TOKEN or api_key_env"
            raise InvalidValueError(f"'{name}' would be saved beside the results", fix=fix)
        return value

    @model_validator(mode="after")
    def _one_source(self) -> ExpertConfig:
        sources = [s for s in (self.model, self.package) if s]
        if self.engine == "fake":
            return self
        if len(sources) != 1:
            raise ValueError("name exactly one of 'model' and 'package'")
        if self.package and not self.file:
            raise ValueError("'package' needs 'file', the path of the GGUF inside the package")
        if (self.engine == "openai") != (self.openai is not None):
            raise ValueError("'engine: openai' and the section 'openai' go together")
        return self

    def sampling_with(self, default: Sampling) -> Sampling:
        """The stage's sampling settings with this expert's own overrides on top."""
        return Sampling.model_validate({**default.model_dump(), **self.sampling})


def _secret_in(options: Any) -> str | None:
    """Name of the first setting, at any depth, that holds a key or a password."""
    if isinstance(options, (list, tuple)):
        return next(filter(None, map(_secret_in, options)), None)
    if not isinstance(options, dict):
        return None
    for name, value in options.items():
        if isinstance(value, str) and SECRET_NAME.search(str(name)):
            return str(name)
        if found := _secret_in(value):
            return found
    return None
