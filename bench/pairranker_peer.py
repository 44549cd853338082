"""The peer's side of bench/pairranker.py: ``Blender.rank`` of llm-blender 0.0.2."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from peer import Answer, serve


def answers(requests: Iterable[Answer]) -> Iterator[Answer]:
    blender: Any = None
    logits: list[Any] = []
    for request in requests:
        if "load" in request:
            blender = loaded(request["load"], request.get("device", "cpu"), logits)
            yield {"ready": request["load"]}
            continue
        logits.clear()
        started = time.perf_counter()
        scores = blender.rank(
            request["sources"], request["candidates"], return_scores=True,
            batch_size=request["batch_size"],
        )  # fmt: skip
        seconds = time.perf_counter() - started
        yield {"seconds": seconds, "scores": scores.tolist(), "logits": [*chain(*logits)]}


def loaded(folder: str, device: str, logits: list[Any]) -> Any:
    """A blender that leaves the pairwise logits of each batch in ``logits``."""
    from llm_blender.blender.blender import Blender
    from llm_blender.blender.config import BlenderConfig

    blender = Blender(BlenderConfig(device=device, use_tqdm=False))
    blender.loadranker(folder, device=device)
    predict = blender.ranker._full_predict

    def noted(**batch: Any) -> Any:
        outputs = predict(**batch)
        logits.append(outputs["logits"].tolist())
        return outputs

    blender.ranker._full_predict = noted
    return blender


if __name__ == "__main__":
    serve(answers)
