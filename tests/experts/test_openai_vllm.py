"""The OpenAI-compatible client against vLLM's own server on loopback."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blender_med.experts import ExpertConfig, Sampling, load_expert
from blender_med.records import Question

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
QUESTIONS = [Question(f"q{i}", "d", "test", "long", f"What is {i}?") for i in range(12)]
MCQ = Question("m", "medqa", "test", "mcq", "Which?", None, ("red", "green", "blue"), 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail("the server ended")
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    pytest.fail("the server is not ready")


@pytest.fixture(scope="module")
def address(tiny_llama: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(tiny_llama),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "256", "--enforce-eager", "--served-model-name", "tiny"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
        os.killpg(process.pid, signal.SIGTERM)


def served(address: str, **values: Any) -> Any:
    base = {"name": "s", "engine": "openai", "model": "tiny", "max_model_len": 256}
    return load_expert(
        ExpertConfig.model_validate({**base, "openai": {"base_url": address}, **values})
    )


def local(folder: Path) -> Any:
    base = {"name": "l", "engine": "transformers", "model": str(folder), "max_model_len": 256}
    return load_expert(ExpertConfig.model_validate({**base, "dtype": "float32"}), device="cpu")


def test_texts_and_scores_equal_the_local_engine(address: str, tiny_llama: Path) -> None:
    sampling = Sampling(max_tokens=16)
    remote, here = served(address), local(tiny_llama)
    rows = []
    for expert in (remote, here):
        prompts = [expert.render(q, 16) for q in QUESTIONS]
        made = expert.generate(prompts, sampling, n=1, seeds=range(12))
        rows.append([(c.text, c.finish_reason, c.completion_tokens) for (c,) in made])
    assert rows[0] == rows[1]
    scores = []
    for expert in (remote, here):
        prompt, choices = expert.render_choices(MCQ)
        scores += expert.choice_logprobs([prompt], [choices])
    assert scores[0].logprobs == pytest.approx(scores[1].logprobs, abs=1e-3)
    assert scores[0].prompt_tokens == scores[1].prompt_tokens
    here.close()
    remote.close()


def test_seeded_samples_repeat(address: str) -> None:
    expert = served(address, chat=False)
    prompts = [expert.render(q, 16) for q in QUESTIONS]
    sampling = Sampling(temperature=1.0, max_tokens=16)
    first = expert.generate(prompts, sampling, n=2, seeds=range(12))
    assert first == expert.generate(prompts, sampling, n=2, seeds=range(12))
    assert first[0][0].text != first[0][1].text
    expert.close()
