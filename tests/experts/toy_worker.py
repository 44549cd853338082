"""A worker whose engine is a toy: it starts at once and does as its prompt says.

``TOY_FAULT`` names what goes wrong at the second batch, as long as the file ``TOY_FLAG`` exists.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from blender_med.experts import worker
from blender_med.experts.base import Completion
from blender_med.registry import Registry


class ToyEngine:
    """A prompt of [1] raises, [2] hangs, [3] is slow but alive; others are answered."""

    def __init__(self, spec: Any) -> None:
        print("toy engine of", spec.model, flush=True)
        self._batches = 0

    def generate(self, requests: Any, sampling: Any, n: int, tick: Any) -> Any:
        self._batches += 1
        if self._batches == 2 and Path(os.environ.get("TOY_FLAG", "/none")).exists():
            return FAULTS[os.environ["TOY_FAULT"]](len(requests), n)
        first = requests[0].token_ids
        if first == [1]:
            raise IndexError("no such token")
        if first == [2]:
            time.sleep(60)
        if first == [3]:
            for _ in range(30):
                time.sleep(0.1)
                tick()
        return (
            [[Completion(str(sum(r.token_ids)), "stop", len(r.token_ids), 1)] * n for r in requests]
            if len(requests) > 1
            else [[Completion(str(first), "stop", len(first), 1)] * n]
        )


def die(rows: int, n: int) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(rows: int, n: int) -> Any:
    time.sleep(60)


def completions(*, rows: int, n: int, **changes: Any) -> list[list[Completion]]:
    values = {"text": "x", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    return [[Completion(**(values | changes))] * n for _ in range(rows)]  # type: ignore[arg-type]


FAULTS = {
    "die": die,
    "hang": hang,
    "fewer": lambda rows, n: completions(rows=rows - 1, n=n),
    "more": lambda rows, n: completions(rows=rows, n=n + 1),
    "none": lambda rows, n: None,
    "texts": lambda rows, n: [["x"] * n] * rows,
    "bytes": lambda rows, n: completions(rows=rows, n=n, text=b"x"),
    "counts": lambda rows, n: completions(rows=rows, n=n, completion_tokens=-1),
    "nan": lambda rows, n: completions(rows=rows, n=n, logprob_sum=float("nan")),
}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    worker._ENGINES = Registry("engine", {"transformers": "toy_worker:ToyEngine"})
    worker.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
