"""Lines of progress where there is no terminal."""

from __future__ import annotations

import logging
from io import StringIO

from rich.console import Console

from blender_med.executors import progress
from blender_med.executors.progress import ProgressDisplay


def test_the_rate_forgets_what_a_resumed_training_had_done_before(monkeypatch, caplog) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO)
    with ProgressDisplay(Console(file=StringIO())).stage("train", 100) as advance:
        advance(60)  # at once: the steps before the interruption
        for _ in range(8):
            now += 20.0
            advance(1)
    assert "61 of 100, 3.0/s" in caplog.messages[0]
    assert caplog.messages[-1] == "train: 68 of 100, 3.0/min, 640 s left"
