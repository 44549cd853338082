"""The engine process: ``python -m blender_med.experts.worker FD PARENT MAIN_THREAD``.

It serves one engine over a socket and ends with its parent, however that ends: the reader
thread sees the socket close, and on Linux the kernel sends SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from blender_med.errors import BlenderMedError
from blender_med.experts.requests import Engine, EngineSpec
from blender_med.registry import Registry

_PR_SET_PDEATHSIG = 1
_TICK_SECONDS = 1.0

_ENGINES = Registry(
    "engine",
    {
        "transformers": "blender_med.experts.transformers:TransformersEngine",
        "vllm": "blender_med.experts.vllm:VllmEngine",
    },
)


def main(descriptor: int, parent: int, in_main_thread: bool) -> None:
    """Serve requests until the parent closes its end."""
    _die_with_parent(parent, in_main_thread)
    connection = Connection(descriptor)
    inbox: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    engine: Engine | None = None
    while True:
        method, arguments = inbox.get()
        try:
            if method == "load":
                engine = _load(*arguments)
                _send(connection, ("result", None))
            else:
                tick = _ticker(connection)
                _send(connection, ("result", getattr(engine, method)(*arguments, tick)))
        except Exception as error:  # every failure of an engine reaches the user as ExpertError
            traceback.print_exc()
            _send(connection, ("error", *_described(error)))


def _die_with_parent(parent: int, in_main_thread: bool) -> None:
    """Ask the kernel for SIGKILL at the parent's death.

    The kernel watches the thread that started this process, so that is only right for the
    main thread; for any other the closing socket does it alone.
    """
    if sys.platform == "linux" and in_main_thread:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _read(connection: Connection, inbox: SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _load(spec: EngineSpec) -> Engine:
    engine: Engine = _ENGINES.load(spec.engine)(spec)
    return engine


def _ticker(connection: Connection) -> Any:
    """A function that tells the parent, at most once a second, that work goes on."""
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last > _TICK_SECONDS:
            last = time.monotonic()
            _send(connection, ("tick", None))

    return tick


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    try:
        connection.send(message)
    except OSError:  # the parent is gone
        os._exit(0)


def _described(error: Exception) -> tuple[str, str]:
    if isinstance(error, BlenderMedError):
        return error.problem, error.fix
    text = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {text}", _advice(text)


def _advice(text: str) -> str:
    low = text.lower()
    if "out of memory" in low or "kv cache" in low or "can't allocate memory" in low:
        return (
            "lower max_model_len or gpu_memory_utilization, or choose a smaller or quantised model"
        )
    if "gated" in low or "401" in low or "403" in low:
        return "accept the model's licence on the Hub and log in with 'hf auth login'"
    if "safetensors" in low or "cannot find any model weights" in low:
        return (
            "set 'allow_pickle: true' in the expert recipe if you trust the source of the weights"
        )
    if "not supported" in low or "unsupported" in low:
        return "set 'engine: transformers' in the expert recipe, or choose another quantisation"
    return "check the expert recipe; run again with --verbose to see the engine's own log"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
