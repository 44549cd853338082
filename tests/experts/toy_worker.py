"""A worker whose engine is a toy: it starts at once and does as its prompt says."""

from __future__ import annotations

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

    def generate(self, requests: Any, sampling: Any, n: int, tick: Any) -> Any:
        first = requests[0].token_ids
        if first == [1]:
            raise IndexError("no such token")
        if first == [2]:
            time.sleep(60)
        if first == [3]:
            for _ in range(30):
                time.sleep(0.1)
                tick()
        done = Completion(str(first), "stop", len(first), 1)
        return [[done] * n for _ in requests]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    worker._ENGINES = Registry("engine", {"transformers": "toy_worker:ToyEngine"})
    worker.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
