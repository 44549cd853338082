"""Start an engine process, talk to it, and notice when it dies or hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn

from blender_med.errors import ExpertError
from blender_med.experts.requests import EngineSpec

LOAD_SECONDS = 3600.0  # a download of many gigabytes counts
STALL_SECONDS = 1200.0  # one step of the largest batch on a slow CPU stays far below
_WORKER = ("-m", "blender_med.experts.worker")
_POLL_SECONDS = 0.2
_LOG_LINES = 12
_LOG_BYTES = 20_000
_GRACE_SECONDS = 5.0


class EngineProcess:
    """One engine in a process of its own, which ends with this one.

    Args:
        spec: What it loads.
        environment: Variables added to this process's.
        verbose: Let its output through; otherwise it is kept for error messages.
        stall_seconds: Longest silence while it works before it counts as hanging.

    Raises:
        ExpertError: It cannot be started, dies or hangs while it loads.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        environment: dict[str, str],
        verbose: bool = False,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._name = spec.config.name
        self._stall = stall_seconds
        self._log: IO[bytes] | None = None if verbose else _log_file()
        self._process, self._connection = _spawn(environment, self._log)
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection, self._log)
        self._call("load", (spec,), LOAD_SECONDS)

    def call(self, method: str, *arguments: Any) -> Any:
        """Result of ``method`` of the engine.

        Raises:
            ExpertError: The engine refuses, dies or hangs; it is stopped if it did.
        """
        return self._call(method, arguments, self._stall)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """End the process; may be called twice."""
        self._finalizer()

    def _call(self, method: str, arguments: tuple[Any, ...], patience: float) -> Any:
        try:
            self._connection.send((method, arguments))
            kind, *content = self._answer(patience)
        except OSError:
            self._died()
        except BaseException:  # an interrupted engine would answer the wrong request next
            self.stop()
            raise
        if kind == "error":
            problem, fix = content
            raise ExpertError(f"expert '{self._name}': {problem}{self._tail()}", fix=fix)
        return content[0]

    def _answer(self, patience: float) -> tuple[Any, ...]:
        deadline = time.monotonic() + patience
        while True:
            if self._connection.poll(_POLL_SECONDS):
                message = self._receive()
                if message[0] != "tick":
                    return message
                deadline = time.monotonic() + patience
            elif self._process.poll() is not None:
                self._died()
            elif time.monotonic() > deadline:
                self._hangs(patience)

    def _receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._connection.recv()
        except (EOFError, OSError):
            self._died()
        except Exception as error:  # what unreadable bytes raise depends on the bytes
            fix = "run again with --verbose; a library may write into the engine's socket"
            problem = f"the engine of expert '{self._name}' sent garbage{self._tail()}"
            raise ExpertError(problem, fix=fix) from error
        return message

    def _died(self) -> NoReturn:
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        fix = "see the last lines of its log; signal 9 usually means that memory ran out"
        problem = f"the engine of expert '{self._name}' died ({how}){self._tail()}"
        self.stop()
        raise ExpertError(problem, fix=fix)

    def _hangs(self, patience: float) -> NoReturn:
        silent = f"did nothing for {patience:.0f} s"
        problem = f"the engine of expert '{self._name}' {silent}{self._tail()}"
        self.stop()
        raise ExpertError(problem, fix="run again with --verbose; lower the batch or the lengths")

    def _tail(self) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # pread, because the process writes at the file position that seek would move.
        end = os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES))
        lines = end.decode("utf-8", "replace").strip().splitlines()
        return "\n  log: " + "\n  log: ".join(lines[-_LOG_LINES:]) if lines else ""


def _log_file() -> IO[bytes]:
    """A file without a name, which is gone when both processes have closed it."""
    return tempfile.TemporaryFile()


def _spawn(
    environment: dict[str, str], log: IO[bytes] | None
) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    in_main = threading.current_thread() is threading.main_thread()
    command = [sys.executable, *_WORKER, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            [*command, str(os.getpid()), "1" if in_main else "0"],
            env={**os.environ, "PYTHONPATH": _search_path(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops us
        )
    return process, Connection(ours.detach())


def _search_path() -> str:
    """The parent's module path, so that the child finds the same package as the parent did."""
    return os.pathsep.join(dict.fromkeys(p or str(Path.cwd()) for p in sys.path))


def _end(process: subprocess.Popen[bytes], connection: Connection, log: IO[bytes] | None) -> None:
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what the engine started itself
    process.wait()
    if log is not None:
        log.close()
