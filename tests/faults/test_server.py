"""A server that refuses, breaks off, hangs or stops in the middle of a run."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from blender_med.errors import ExpertError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.experts import openai as module
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline


def reply(**choice: Any) -> tuple[int, str, dict[str, str]]:
    return 200, json.dumps({"choices": [choice]}), {}


TROUBLE = {
    "429": (429, "slow down", {"retry-after": "0"}),
    "500": (500, "oops", {}),
    "half": "half",
    "closed": "close",
    "hanging": "hang",
    "nested": (200, "[" * 100_000, {}),
    "number": reply(message={"content": 5}),
    "no object": (200, json.dumps({"choices": ["text"]}), {}),
    "counts": (200, json.dumps({"choices": [{"text": "a"}], "usage": {"prompt_tokens": "x"}}), {}),
    "packed": (200, "x", {"content-encoding": "gzip"}),
}


@pytest.fixture
def answers(server, changed, monkeypatch):
    """Runs the study with an expert behind the server; returns its results."""
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.02)
    address = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "concurrency": 1}
    served = {"name": "served", "engine": "openai", "model": "m", "openai": address}
    study = changed(
        dataset={"type": "sample", "limit": 24},
        experts=[served, {"name": "fake", "engine": "fake"}],
    )

    def run(name: str, **openai: Any) -> dict[str, Any]:
        monkeypatch.setenv("BLENDER_MED_CACHE", str(study.folder / f"{name}-cache"))
        overrides = [f"experts.served.openai.{key}={value}" for key, value in openai.items()]
        opened = open_recipe(study.recipe, [f"name={name}", *overrides])
        executor = LocalExecutor(ProgressDisplay(None, quiet=True))  # type: ignore[arg-type]
        run_pipeline(opened, executor, Selection())
        return study.results(opened.folder)

    return run


@pytest.mark.parametrize("trouble", sorted(TROUBLE))
def test_trouble_that_passes_and_trouble_that_stays(server, answers, trouble: str) -> None:
    whole = answers("whole")
    server.script = [None, None, TROUBLE[trouble], None, TROUBLE[trouble]]
    patience = {"timeout": 2} if trouble == "hanging" else {}
    assert answers("patient", retries=1, **patience) == whole
    server.script = [None, None, TROUBLE[trouble]]
    with pytest.raises(ExpertError, match=r"openai\.base_url.*still fails.*Fix: ") as caught:
        answers("impatient", retries=0, **patience)
    assert len(str(caught.value)) < 1000
    assert answers("impatient", retries=0) == whole


def test_a_server_that_stops_and_comes_back(server, answers) -> None:
    whole = answers("whole")
    asked = len(server.bodies)
    server.script = [None] * (asked // 2) + ["stop"]
    with pytest.raises(ExpertError, match="still fails after 1 retries: ConnectError"):
        answers("stopped", retries=1)
    with type(server)(server.server_port) as back:
        threading.Thread(target=back.serve_forever, args=(0.02,), daemon=True).start()
        assert answers("stopped") == whole
        assert len(back.bodies) < asked
        back.shutdown()


def test_a_text_that_no_file_can_hold(server, answers) -> None:
    """JSON can spell half a surrogate pair; Arrow and UTF-8 cannot."""
    server.script = [reply(message={"content": "before \ud800 after\0"})] * 3
    shards = answers("odd")
    texts = [row["text"] for row in shards["generate/part-served-0000000-0000008.parquet"]]
    assert "before \ufffd after" in texts
