"""Progress of a stage: a bar with rate and time left on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows how far a stage is.

    Args:
        console: Where bars go; log lines are written instead when it is no terminal.
        quiet: Show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @contextmanager
    def stage(self, name: str, total: int, finished: int = 0) -> Iterator[Callable[[int], None]]:
        """Yield ``advance(n)`` for a stage of ``total`` steps, ``finished`` of them done before."""
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
        return Text(f"{task.speed:.1f}/s" if task.speed else "-")


class _LogLines:
    def __init__(self, name: str, total: int, finished: int) -> None:
        self._name, self._total, self._done = name, total, finished
        self._first_done, self._started = finished, time.monotonic()
        self._last = self._started

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if self._done < self._total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = (self._done - self._first_done) / max(now - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        message = "%s: %d of %d, %.1f/s, %.0f s left"
        logger.info(message, self._name, self._done, self._total, rate, left)
