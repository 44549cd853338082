"""Engine processes that work, die, hang, and lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from blender_med.errors import ExpertError
from blender_med.experts import ExpertConfig, Sampling, load_expert, load_experts
from blender_med.experts import process as process_module
from blender_med.experts.process import EngineProcess
from blender_med.experts.requests import EngineSpec, GenerateRequest
from blender_med.records import Question

SAMPLING = Sampling(temperature=1.0, max_tokens=8)
QUESTIONS = [Question(f"q{i}", "d", "test", "long", f"What is {i}?") for i in range(5)]
MCQ = Question("m", "medqa", "test", "mcq", "Which?", None, ("red", "green", "blue"), 1)
WORKER = Path(__file__).parent / "toy_worker.py"
TOY = ExpertConfig(name="tiny", engine="transformers", model="toy")


def tiny(folder: Path, **values: Any) -> ExpertConfig:
    base = {"name": "tiny", "engine": "transformers", "model": str(folder), "max_model_len": 256}
    return ExpertConfig.model_validate({**base, "dtype": "float32", "batch_size": 4, **values})


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    """A process with a toy engine, which may be silent for two seconds."""
    monkeypatch.setattr(process_module, "_WORKER", (str(WORKER),))
    spec = EngineSpec("transformers", TOY, "toy", None, (), False)
    started = EngineProcess(spec, environment={}, stall_seconds=2)
    yield started
    started.stop()


def ask(process: EngineProcess, *token_ids: int) -> Any:
    return process.call("generate", [GenerateRequest(list(token_ids), 1)], SAMPLING, 1)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has waited for counts)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if gone(pid):
            return True
        time.sleep(0.05)
    return False


def test_two_experts_of_one_base_share_a_real_engine(tiny_llama: Path) -> None:
    configs = [tiny(tiny_llama), tiny(tiny_llama, name="other")]
    first, second = cast("list[Any]", load_experts(configs, device="cpu"))
    prompts = [first.render(q, 8) for q in QUESTIONS]
    assert first.generate([], SAMPLING, n=1, seeds=[]) == []
    assert first._engine.pid is None
    rows = first.generate(prompts, SAMPLING, n=2, seeds=range(5))
    assert [len(row) for row in rows] == [2] * 5
    assert rows == second.generate(prompts, SAMPLING, n=2, seeds=range(5))
    prompt, choices = second.render_choices(MCQ)
    (scores,) = second.choice_logprobs([prompt], [choices])
    assert len(scores.logprobs) == 3
    assert scores.prompt_tokens == prompt.tokens
    pid = first._engine.pid
    first.close()
    assert not gone(pid)
    second.close()
    second.close()
    assert wait_until_gone(pid)


def test_a_killed_engine_is_an_error_that_says_so(process: EngineProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ExpertError, match=r"(?s)'tiny' died \(signal 9\).*log: toy engine of toy"):
        ask(process, 5)
    assert not process.alive


@pytest.mark.parametrize("stopped", [True, False])
def test_a_hanging_engine_is_ended(
    process: EngineProcess, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blender_med.experts.process._GRACE_SECONDS", 0.5)
    if stopped:
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ExpertError, match="did nothing for 2 s"):
        ask(process, 2)
    assert wait_until_gone(process.pid)


def test_a_slow_engine_is_not_a_hanging_one(process: EngineProcess) -> None:
    assert ask(process, 3)[0][0].text == "[3]"


def test_an_error_of_the_engine_comes_with_its_log(process: EngineProcess) -> None:
    with pytest.raises(ExpertError, match=r"(?s)IndexError: no such token.*log: .*Fix: "):
        ask(process, 1)
    assert ask(process, 4)[0][0].text == "[4]"


def test_an_interrupted_request_stops_the_engine(
    process: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(patience: float) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(process, 4)
    assert not process.alive


def test_a_broken_model_is_an_error(tmp_path: Path, tiny_llama: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_llama / name).read_bytes())
    expert = load_expert(tiny(tmp_path), device="cpu")
    prompt = expert.render(QUESTIONS[0], 8)
    with pytest.raises(ExpertError, match="expert 'tiny': OSError"):
        expert.generate([prompt], SAMPLING, n=1, seeds=[0])


PARENT = """
import sys, threading, time
from blender_med.experts import process
from blender_med.experts.config import ExpertConfig
from blender_med.experts.requests import EngineSpec
process._WORKER = (sys.argv[1],)
def start():
    global engine
    config = ExpertConfig(name="tiny", engine="transformers", model="toy")
    spec = EngineSpec("transformers", config, "toy", None, (), False)
    engine = process.EngineProcess(spec, environment={})
if sys.argv[2] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.5)
else:
    start()
print(engine.pid if engine.alive else "dead", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("place", ["main", "thread"])
def test_the_engine_dies_with_its_parent(place: str) -> None:
    command = [sys.executable, "-c", PARENT, str(WORKER), place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    assert wait_until_gone(pid)
