"""Progress of a stage: a bar with rate and time left on a terminal, log lines elsewhere.

A run also keeps it in a file, from which ``blender-med status`` shows it in another terminal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from blender_med.store.heartbeat import Heartbeat, write_heartbeat

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_BEATS = 2.0
_LINES_OF_A_RATE = 6


class ProgressDisplay:
    """Shows how far a stage is.

    Args:
        console: Where bars go; log lines are written instead when it is no terminal.
        quiet: Show nothing.
        file: Where the progress is kept for others to read; None keeps none.
    """

    def __init__(self, console: Console, *, quiet: bool = False, file: Path | None = None) -> None:
        self._console = console
        self._quiet = quiet
        self._file = file

    @contextmanager
    def stage(self, name: str, total: int, finished: int = 0) -> Iterator[Callable[[int], None]]:
        """Yield ``advance(n)`` for a stage of ``total`` steps, ``finished`` of them done before."""
        with self._shown(name, total, finished) as show:
            if self._file is None:
                yield show
                return
            with _Heartbeat(self._file, name, total, finished) as beat:

                def advance(steps: int) -> None:
                    show(steps)
                    beat.advance(steps)

                yield advance

    @contextmanager
    def _shown(self, name: str, total: int, finished: int) -> Iterator[Callable[[int], None]]:
        if self._quiet:
            yield lambda n: None
        elif self._console.is_terminal:
            with self._bar(name, total, finished) as advance:
                yield advance
        else:
            yield _LogLines(name, total, finished).advance

    @contextmanager
    def _bar(self, name: str, total: int, finished: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total, completed=finished)
            yield lambda n: progress.advance(task, n)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_speed(task.speed) if task.speed else "-")


def _speed(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


class _LogLines:
    def __init__(self, name: str, total: int, finished: int) -> None:
        self._name, self._total, self._done = name, total, finished
        # The last lines alone: a resumed training reports its earlier steps at once.
        self._lines = deque([(time.monotonic(), finished)], maxlen=_LINES_OF_A_RATE)

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if self._done < self._total and now - self._lines[-1][0] < _SECONDS_BETWEEN_LINES:
            return
        started, before = self._lines[0]
        self._lines.append((now, self._done))
        rate = (self._done - before) / max(now - started, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        remaining = f", {left:.0f} s left" if left else ""
        logger.info(
            "%s: %d of %d, %s%s", self._name, self._done, self._total, _speed(rate), remaining
        )


class _Heartbeat:
    """Writes the state of a stage every two seconds at most; a thread does it where work is slow.

    The clock of the process counts, so that a change of the machine's does no harm.
    """

    def __init__(self, file: Path, name: str, total: int, finished: int) -> None:
        self._file, self._name, self._total = file, name, total
        self._first = self._done = finished
        self._started = self._stepped = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, steps: int) -> None:
        self._done += steps
        self._stepped = time.monotonic()

    def _beat(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_BEATS):
            self._write()

    def _write(self) -> None:
        now = time.monotonic()
        rate = (self._done - self._first) / max(self._stepped - self._started, 1e-9)
        write_heartbeat(
            self._file,
            Heartbeat(
                stage=self._name, total=self._total, done=self._done, rate=rate,
                seconds=now - self._started, silent=now - self._stepped,
            ),
        )  # fmt: skip
