"""What a run in another terminal is doing."""

from __future__ import annotations

import time
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 2.0


def print_live(folder: Path) -> None:
    """Print one line about the process that runs in a run directory, if one does."""
    from blender_med.cli.console import stdout

    if (line := live_line(folder)) is not None:
        stdout.print(line, soft_wrap=True)


def watch_live(folder: Path) -> None:
    """Print that line every two seconds, until no process runs there; Ctrl-C ends it too."""
    while live_line(folder) is not None:
        print_live(folder)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def live_line(folder: Path) -> str | None:
    """Process, stage, steps, rate, time left; None where no process runs."""
    from blender_med.store.heartbeat import FILE, read_heartbeat
    from blender_med.store.lock import lock_holder

    holder = lock_holder(folder)
    if holder is None:
        return None
    beat = read_heartbeat(folder / FILE)
    if beat is None:
        return f"running: process {holder}"
    left = "" if beat.left is None else f", about {_duration(beat.left)} left"
    return (
        f"running: process {holder}, {beat.stage}: {beat.done} of {beat.total},"
        f" {beat.rate:.1f}/s{left}; last step {_duration(beat.silent)} ago"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
