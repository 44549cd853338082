"""A peer's own code in an environment and a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def peer_python(packages: Sequence[str]) -> Path:
    """Python of an environment with ``packages`` and our version of torch; made on first use."""
    import torch

    from blender_med.store.cache import cache_root

    folder = cache_root() / "bench" / "-".join(packages).replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        wanted = [*packages, f"torch=={torch.__version__.partition('+')[0]}"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
        (folder / "ready").touch()
    return python


class Peer:
    """A process that answers one JSON request a line.

    Args:
        script: Its code, which calls :func:`serve`.
        packages: What its environment holds.
    """

    def __init__(self, script: Path, packages: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [str(peer_python(packages)), "-W", "ignore", str(script)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def ask(self, **request: Any) -> Answer:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process has ended; its messages stand above")
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def serve(respond: Callable[[Iterable[Answer]], Iterator[Answer]]) -> None:
    """The peer's side: answer the requests of standard input until it ends."""
    reply = sys.stdout
    sys.stdout = sys.stderr  # what the libraries print is no answer
    for answer in respond(json.loads(line) for line in sys.stdin):
        print(json.dumps(answer), file=reply, flush=True)
