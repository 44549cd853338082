"""An expert behind an OpenAI-compatible server, first of all ``vllm serve``."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from blender_med.errors import ConfigError, ExpertError, shorten
from blender_med.experts.base import ChoiceScores, Completion, Prompt, checked_completion, finite
from blender_med.experts.config import ExpertConfig, OpenAIServer, Sampling
from blender_med.experts.revision import model_revision
from blender_med.prompts.marks import SERVER_MARKS, neutral_question
from blender_med.prompts.protocols import lm_eval_choices, lm_eval_prompt
from blender_med.prompts.templates import chat_messages, plain_prompt
from blender_med.prompts.truncate import fit_context
from blender_med.records import Question

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_CHARACTERS_PER_TOKEN = 3  # low, so that a prompt taken to fit does fit
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 60.0
# What reading a reply raises that is not of the form it should be.
_MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError,
)  # fmt: skip


class TransientError(Exception):
    """A failure that may pass: the request is sent again."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class OpenAIExpert:
    """Asks a server, several requests at a time, results in order.

    With ``chat`` true or unset it uses chat completions (the server applies its template),
    else completions with the plain template. The tokenizer being elsewhere, lengths are
    estimated from characters. ``engine_options`` go into the body of every request.
    """

    def __init__(self, config: ExpertConfig) -> None:
        self.config = config
        self._server = _server(config)
        self._pace = _Pace(self._server.requests_per_minute)
        self._key = _api_key(self._server)

    @property
    def revision(self) -> str:
        """Address of the server and name of the model; the server tells no more."""
        return model_revision(self.config)

    def render(self, question: Question, max_tokens: int) -> Prompt:
        """The messages as JSON (chat), or the plain prompt."""
        safe = neutral_question(question, SERVER_MARKS)
        system, template = self.config.system, self.config.template

        def wording(context: str) -> str:
            if self.config.chat is False:
                return plain_prompt(template, safe, context=context, system=system)
            messages = chat_messages(safe, context=context, system=system)
            return json.dumps(messages, ensure_ascii=False)

        return self._fitted(wording, safe.context, self.config.max_model_len - max_tokens)

    def render_choices(self, question: Question) -> tuple[Prompt, tuple[str, ...]]:
        """Prompt and choices of the protocol ``lm_eval``."""
        safe = neutral_question(question, SERVER_MARKS)
        choices = lm_eval_choices(safe)
        budget = self.config.max_model_len - max(map(_estimate, choices)) - 1
        return self._fitted(lambda c: lm_eval_prompt(safe, c), safe.context, budget), choices

    def _fitted(self, wording: Callable[[str], str], context: str | None, budget: int) -> Prompt:
        fitted = fit_context(wording, context or "", _estimate, budget)
        return Prompt(fitted.text, 0, fitted.truncated_tokens, fitted.fits)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """``n`` completions for each prompt, [n_prompts][n]; sample k has ``seed + k``.

        Raises:
            ExpertError: The server refuses, or still fails after the last retry.
        """
        path = "completions" if self.config.chat is False else "chat/completions"
        bodies = [
            self._body(prompt, sampling, seed + k)
            for prompt, seed in zip(prompts, seeds, strict=True)
            for k in range(n)
        ]
        flat = iter(self._map(lambda body: self._ask(path, body, _completion), bodies))
        return [[next(flat) for _ in range(n)] for _ in prompts]

    def _body(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
        chat = self.config.chat is not False
        body: dict[str, Any] = {
            "model": self.config.model,
            **({"messages": json.loads(prompt.text)} if chat else {"prompt": prompt.text}),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
        }
        neutral = Sampling()
        for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
            if getattr(sampling, name) != getattr(neutral, name):
                body[name] = getattr(sampling, name)
        if sampling.logprobs:
            body["logprobs"] = True if chat else 1
        return body | ({"stop": list(sampling.stop)} if sampling.stop else {}) | self._extra

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Log-likelihood of each choice after each prompt, read off the echoed prompt.

        Raises:
            ExpertError: The server does not return the log-probabilities of a prompt.
        """
        pairs = list(zip(prompts, choices, strict=True))
        return self._map(lambda pair: self._score(*pair), pairs)

    def _score(self, prompt: Prompt, choices: Sequence[str]) -> ChoiceScores:
        texts = [prompt.text, *(prompt.text + choice for choice in choices)]
        body = {"model": self.config.model, "prompt": texts, "max_tokens": 1, "temperature": 0}
        body |= {"echo": True, "logprobs": 1, **self._extra}
        rows = self._ask("completions", body, lambda reply: _echoed(reply, len(texts)))
        length, *_ = map(len, rows)
        if length == 0 or any(len(row) <= length for row in rows[1:]):
            problem = f"the server of expert '{self.config.name}' does not score prompts"
            fix = "use a server that echoes prompts with log-probabilities, or 'generative'"
            raise ExpertError(problem, key="openai.base_url", value=self._server.base_url, fix=fix)
        return ChoiceScores(tuple(sum(row[length:]) for row in rows[1:]), length)

    @property
    def _extra(self) -> dict[str, Any]:
        return dict(self.config.engine_options)

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        base = self._server.base_url.rstrip("/") + "/"
        return httpx.Client(base_url=base, headers=headers, timeout=self._server.timeout)

    def _map(self, ask: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Results in order; the first failure cancels what has not been sent."""
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            futures = [pool.submit(ask, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        attempts = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._server.retries + 1),
            wait=_wait,
            reraise=True,
        )
        try:
            return attempts(lambda: self._attempt(path, body, read))
        except TransientError as error:
            problem = self._redacted(
                f"the server still fails after {self._server.retries} retries: {error}"
            )
            fix = "check the server and its load; raise openai.retries or openai.timeout"
            raise ExpertError(
                problem, key="openai.base_url", value=self._server.base_url, fix=fix
            ) from None

    def _attempt(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        import httpx

        self._pace.wait()
        try:
            response = self._client.post(path, json=body)
        except httpx.RequestError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if response.status_code in _RETRIED:
            text = shorten(response.text)
            raise TransientError(f"HTTP {response.status_code}: {text}", _retry_after(response))
        if response.is_error:
            self._refused(response)
        try:
            return read(response.json())
        except _MALFORMED as error:
            raise TransientError(f"incomplete response: {shorten(response.text)}") from error

    def _refused(self, response: httpx.Response) -> None:
        problem = self._redacted(
            f"the server refuses: HTTP {response.status_code}: {shorten(response.text)}"
        )
        variable = self._server.api_key_env or "openai.api_key_env"
        fixes = {
            400: "check 'max_model_len', 'sampling' and 'engine_options' of the recipe",
            401: f"put a valid API key into the environment variable {variable}",
            403: f"put an API key with access to the model into {variable}",
            404: "check 'openai.base_url' (it usually ends with /v1) and 'model'",
        }
        fix = fixes.get(response.status_code, "check the recipe against the server's documentation")
        raise ExpertError(problem, key="openai.base_url", value=self._server.base_url, fix=fix)

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def close(self) -> None:
        """Close the connections; may be called twice."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()


class _Pace:
    """Keeps requests at least ``60 / requests_per_minute`` seconds apart."""

    def __init__(self, requests_per_minute: int | None) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until the next request may go out."""
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        time.sleep(start - now)


def _server(config: ExpertConfig) -> OpenAIServer:
    if config.openai is None:
        fix = "add the section 'openai' with 'base_url'"
        raise ConfigError("'engine: openai' needs its server", key="openai", fix=fix)
    return config.openai


def _api_key(server: OpenAIServer) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env)
    if not key:
        problem = f"the environment variable {server.api_key_env} is not set"
        fix = f"export {server.api_key_env}=... or remove api_key_env for a server without keys"
        raise ConfigError(problem, key="openai.api_key_env", fix=fix)
    return key


def _wait(state: Any) -> float:
    """Seconds before the next attempt: the server's ``Retry-After``, else 0.5, 1, 2, 4, ..."""
    error = state.outcome.exception()
    asked = error.wait if isinstance(error, TransientError) else None
    return min(_LONGEST_WAIT, 0.5 * 2.0 ** (state.attempt_number - 1) if asked is None else asked)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _completion(reply: Any) -> Completion:
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    reason, loss = choice.get("finish_reason") or "stop", _logprob_sum(choice.get("logprobs"))
    return checked_completion(Completion(text or "", reason, prompt, completion, loss))


def _logprob_sum(logprobs: Any) -> float | None:
    """Sum over the generated tokens, in the form of either endpoint; None where not asked for."""
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return float(sum(token["logprob"] for token in logprobs["content"]))
    return float(sum(logprobs["token_logprobs"]))


def _echoed(reply: Any, expected: int) -> list[list[float]]:
    """Log-probabilities of the prompts' tokens, without the one token generated after each."""
    choices = sorted(reply["choices"], key=lambda choice: choice["index"])
    if len(choices) != expected:
        raise ValueError("fewer choices than prompts")
    rows = [(choice.get("logprobs") or {}).get("token_logprobs") or [0.0] for choice in choices]
    return [[0.0 if value is None else finite(value) for value in row[:-1]] for row in rows]


def _estimate(text: str) -> int:
    return len(text) // _CHARACTERS_PER_TOKEN + 1
