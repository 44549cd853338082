"""What fusing hidden states costs: training, fused questions per second, and the effect of k.

    python bench/gate.py                      # the size of pipelines/medical-mcq.yaml

Made states stand for those of real experts: nothing here depends on what they mean. Measured are
(1) the seconds of training every mode with every gate on ``--questions`` questions, (2) questions
fused per second by each of them, (3) seconds of projecting and fusing with k of ``--experts`` wide
experts, and how they grow with k, (4) the memory of training at one and at four times the
questions. Results go to bench/results/gate.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blender_med.config import load_yaml, merged
from blender_med.data.embedded import QUESTION_TEXT, choice_examples, option_text
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.embedding_config import EmbeddingFuserSettings
from blender_med.fusers.hidden_states import (
    QUESTION_ENCODER,
    Key,
    StateStore,
    states_path,
    write_states,
)
from blender_med.fusers.state_batches import StateBatches, choose
from blender_med.records import HiddenState, Question
from blender_med.store.manifest import Manifest, provenance, timestamp, write_manifest
from blender_med.store.shards import part_path, write_part
from blender_med.training.config import recipe_file
from blender_med.training.embedding_config import EmbeddingFuserJob, load_embedding_job
from blender_med.training.jobs import prepared

RESULTS = Path(__file__).parent / "results" / "gate.json"
WIDTHS = {"smollm2-135m": 576, "gemma3-270m": 640, QUESTION_ENCODER: 384}
MODES = ("weighted_sum", "refined", "transformer")
GATES: tuple[dict[str, Any], ...] = (
    {"type": "dense"},
    {"type": "noisy_topk", "k": 1},
    {"type": "topk_softmax", "k": 1},
)
SHARD = 2000
ROUNDS = 5


def made_questions(count: int) -> list[Question]:
    """Four options each; three of five to learn from."""
    splits = ("train", "train", "train", "dev", "test")
    return [
        Question(f"q{i}", "made", splits[i % 5], "mcq", "?", None, tuple("abcd"), i * 7 % 4)
        for i in range(count)
    ]


def write_run(folder: Path, count: int) -> Path:
    """The stages prepare and embed of a run, as ``blender-med run`` would leave them."""
    questions = made_questions(count)
    write_part(part_path(folder / "prepare", "0"), questions, Question)
    for name, width in WIDTHS.items():
        texts = [QUESTION_TEXT] if name == QUESTION_ENCODER else [option_text(i) for i in range(4)]
        for start in range(0, count, SHARD):
            own = questions[start : start + SHARD]
            keys = [Key(question.id, text) for question in own for text in texts]
            rng = np.random.default_rng([start, width])
            states = rng.normal(size=(len(keys), 1, width)).astype(np.float32)
            path = part_path(folder / "embed", f"{name}-{start:07d}-{start + len(own):07d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_states(states_path(path), list(states), keys, "float16")
            index = [HiddenState(k.question_id, name, k.text, i) for i, k in enumerate(keys)]
            write_part(path, index, HiddenState)
    for stage in ("prepare", "embed"):
        manifest = Manifest(
            stage=stage, fingerprint=f"made-{count}", identity={}, inputs={}, parts={}, rows=0,
            files=[], seconds=0.0, finished=timestamp(), provenance=provenance(),
        )  # fmt: skip
        write_manifest(folder / stage, manifest)
    return folder


def job(run: Path, mode: str, gate: Mapping[str, Any], **training: Any) -> EmbeddingFuserJob:
    """The shipped recipe with another mode and gate; nothing ends it early."""
    changes = {
        "name": f"{mode}-{gate['type']}",
        "data": {"run": str(run)},
        "embedding_fuser": {"mode": mode, "gate": dict(gate)},
        "training": {"patience": None, **training},
    }
    return load_embedding_job(merged(load_yaml(recipe_file("embedding-mcq", "fusers")), changes))


def trainings(run: Path, out: Path) -> dict[str, Any]:
    """Seconds of training, and questions fused per second, by mode and gate."""
    found: dict[str, Any] = {}
    examples = choice_examples(made_questions(1024)).examples
    for mode in MODES:
        for gate in GATES:
            own = job(run, mode, gate)
            started = time.perf_counter()
            steps, train = prepared(own)
            train(out / own.name)
            seconds = time.perf_counter() - started
            fuser = EmbeddingFuser.from_pretrained(out / own.name)
            batches = StateBatches(StateStore(run / "embed"), fuser.config)
            list(choose(fuser, batches, examples))  # unmeasured
            started = time.perf_counter()
            list(choose(fuser, batches, examples))
            rate = len(examples) / (time.perf_counter() - started)
            found[own.name] = {"seconds": seconds, "steps": steps, "questions_per_second": rate}
            print(own.name, found[own.name], flush=True)
    return found


def by_k(experts: int, width: int, rows: int) -> dict[str, Any]:
    """Median seconds of a forward pass with k of the experts, and each over that of k = 1."""
    names = {f"expert{i}": width for i in range(experts)}
    states = {name: torch.randn(rows, 1, width) for name in names}
    questions = torch.randn(rows, 384)
    seconds = {}
    for k in (1, 2, experts):
        gate = {"type": "topk_softmax", "k": k}
        settings = EmbeddingFuserSettings.model_validate({"gate": gate})
        fuser = EmbeddingFuser.build(settings, names, question_width=384).eval()
        times = []
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            with torch.inference_mode():
                fuser(states, None, questions)
            times.append(time.perf_counter() - started)
        seconds[k] = sorted(times[1:])[ROUNDS // 2]
    return {
        "seconds": seconds,
        "over_k_1": {k: value / seconds[1] for k, value in seconds.items()},
    }


def memory(run: str, out: str) -> int:
    """Peak resident megabytes of a process that trains a little on a run."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (run, out))


def _peak(run: str, out: str) -> int:
    train = prepared(job(Path(run), "weighted_sum", GATES[0], epochs=0.2, evaluate_every=0.2))[1]
    train(Path(out))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=4600)
    parser.add_argument("--experts", type=int, default=4, help="for the effect of k")
    parser.add_argument("--width", type=int, default=4096, help="of these experts")
    parser.add_argument("--rows", type=int, default=2048, help="texts fused with k of them")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = write_run(root / "run", chosen.questions)
        large = write_run(root / "large", 4 * chosen.questions)
        result = {
            "training": trainings(run, root / "models"),
            "by_k": by_k(chosen.experts, chosen.width, chosen.rows),
            "peak_megabytes": {
                str(chosen.questions): memory(str(run), str(root / "a")),
                str(4 * chosen.questions): memory(str(large), str(root / "b")),
            },
        }
    settings = vars(chosen) | {
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": platform.machine(),
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
