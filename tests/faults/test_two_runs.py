"""Two runs on one directory, and what another terminal sees of the first."""

from __future__ import annotations

import re
import signal
import time

import pytest

from blender_med.cli.live import live_line
from blender_med.executors.progress import ProgressDisplay
from blender_med.store.heartbeat import FILE, Heartbeat, read_heartbeat, write_heartbeat
from blender_med.store.lock import LOCK, lock_holder, run_lock


def test_the_second_run_is_refused_with_the_firsts_process_id(
    study, undisturbed, one_message
) -> None:
    """The first run is halted, so that it cannot end before the second one starts."""
    first = study.start("whole")
    try:
        while not (seen := live_line(study.runs / "whole")) or "generate" not in seen:
            assert first.poll() is None, "it was over before anybody looked"
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        message = one_message(study.run("whole"))
        assert f"process {first.pid} is running here" in message
        assert re.match(rf"running: process {first.pid}, generate: \d+ of 80, ", seen)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert live_line(study.runs / "whole") is None
    assert not (study.runs / "whole" / FILE).exists()
    assert study.results(study.runs / "whole") == study.results(undisturbed)


def test_a_stale_process_id_is_no_run(tmp_path) -> None:
    (tmp_path / LOCK).write_text("1")
    assert lock_holder(tmp_path) is None
    with run_lock(tmp_path):
        assert lock_holder(tmp_path) not in (None, "1")
    assert lock_holder(tmp_path / "nowhere") is None


def test_progress_is_kept_for_others(tmp_path) -> None:
    from rich.console import Console

    file = tmp_path / FILE
    display = ProgressDisplay(Console(), quiet=True, file=file)
    with display.stage("rank", 10, 4) as advance:
        first = read_heartbeat(file)
        assert first is not None
        assert (first.stage, first.done, first.total, first.left) == ("rank", 4, 10, None)
        advance(3)
        deadline = time.monotonic() + 20
        while (seen := read_heartbeat(file)) is None or seen.done == 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert seen.done == 7
    assert seen.left is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "x"}'])
def test_a_damaged_heartbeat_is_none(tmp_path, text) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_heartbeat(tmp_path / FILE) is None


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path) -> None:
    beat = Heartbeat(stage="s", total=1, done=0, rate=0, seconds=0, silent=0)
    write_heartbeat(tmp_path / "absent" / FILE, beat)
    assert not (tmp_path / "absent").exists()


def test_time_left() -> None:
    beat = Heartbeat(stage="s", total=100, done=40, rate=2.0, seconds=20, silent=5)
    assert beat.left == 25.0
