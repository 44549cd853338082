"""The peer's side of bench/fuser.py: ``Blender.fuse`` of llm-blender 0.0.2."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from typing import Any

from peer import Answer, serve


def answers(requests: Iterable[Answer]) -> Iterator[Answer]:
    from llm_blender.blender.blender import Blender
    from llm_blender.blender.config import BlenderConfig

    blenders: dict[str, Any] = {}
    for request in requests:
        if "load" in request:
            blender = Blender(BlenderConfig(device="cpu", use_tqdm=False))
            blender.loadfuser(request["load"], device="cpu", torch_dtype=request["dtype"])
            blenders[request["dtype"]] = blender
            yield {"ready": request["dtype"]}
            continue
        candidates = copy.deepcopy(request["candidates"])  # it changes them
        started = time.perf_counter()
        texts = blenders[request["dtype"]].fuse(
            request["inputs"], candidates, instructions=request["instructions"],
            num_beams=request["num_beams"], max_new_tokens=request["max_new_tokens"],
        )  # fmt: skip
        yield {"seconds": time.perf_counter() - started, "texts": texts}


if __name__ == "__main__":
    serve(answers)
