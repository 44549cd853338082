"""Time and peak memory of score, rank and evaluate on 1 k to 1 M candidates of the fake expert.

    python bench/scale.py                              # 1,000 and 10,000 candidates
    python bench/scale.py --sizes 1000 10000 100000 1000000
    python bench/scale.py --ray 10000                  # also the executor ray against local

Two fake experts give three long answers or one choice to each question; candidates are scored
(chrF, length, correct), ranked by cosine with a tiny random BERT, and turned into answers.
Every stage of every size runs in a fresh process: seconds are the stage's own, from its manifest;
peak memory is the kernel's account of that process. The first size pays for imports and the model,
so the seconds a candidate are those of the candidates beyond the first size. Results go to
bench/results/scale.json; what a run does not measure stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scale.json"
WORDS = ("fever", "cough", "chest", "pain", "treatment", "dose", "kidney", "liver", "heart", "risk")
STAGES = ("prepare", "generate", "score", "rank", "evaluate")
MEASURED = STAGES[2:]
SPREAD = ("generate", "score", "rank")
CANDIDATES = 4  # a question has on average: 2 x 3 long answers or 2 choices
FLAT = 1.2


@dataclass(frozen=True)
class Row:
    """One stage of one size."""

    executor: str
    candidates: int
    stage: str
    seconds: float
    peak_mib: float


def write_questions(path: Path, count: int) -> None:
    """Half long-form, half multiple-choice, with references of 60 words."""
    draws = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row: dict[str, Any] = {
                "id": str(i),
                "question": f"What about case {i} of {_text(draws, 8)}?",
            }
            if i % 2:
                row |= {"options": [_text(draws, 3) + str(k) for k in range(4)], "answer": i % 4}
            else:
                row["reference"] = _text(draws, 60)
            file.write(json.dumps(row) + "\n")


def _text(draws: random.Random, words: int) -> str:
    return " ".join(draws.choices(WORDS, k=words))


def write_model(folder: Path) -> None:
    """A random BERT of two layers that reads the words above."""
    from transformers import BertConfig, BertModel, BertTokenizer, set_seed

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer(vocab={t: i for i, t in enumerate([*marks, *WORDS])})
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=160,
    )  # fmt: skip
    set_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(folder: Path) -> dict[str, Any]:
    """The pipeline; its run directory is ``folder/runs/EXECUTOR``."""
    fake = {"engine": "fake", "engine_options": {"accuracy": 0.5}}
    ranker = {"type": "embedding", "model": str(folder / "model"), "max_length": 128}
    methods = ["best_single", "random", "majority_vote", "weighted_vote", "embedding", "oracle"]
    return {
        "name": "local",
        "output_dir": str(folder / "runs"),
        "dataset": {"type": "jsonl", "path": str(folder / "questions.jsonl")},
        "experts": [{"name": "first", **fake}, {"name": "second", **fake}],
        "stages": [
            {"type": "prepare", "splits": {"dev": 0.3, "test": 0.7}},
            {
                "type": "generate",
                "long": {"samples": 3, "sampling": {"temperature": 0.7, "max_tokens": 48}},
                "cache": False,
            },
            {"type": "score", "metrics": ["chrf", "length", "correct"]},
            {"type": "rank", "rankers": [ranker]},
            {"type": "evaluate", "primary_long": "chrf", "methods": methods},
        ],
    }


@contextmanager
def material(candidates: int) -> Iterator[Path]:
    """A folder with questions, model and recipe."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder / "questions.jsonl", candidates // CANDIDATES)
        write_model(folder / "model")
        (folder / "recipe.yaml").write_text(json.dumps(recipe(folder)), encoding="utf-8")
        yield folder


def measure(folder: Path, candidates: int, executor: str, stages: Sequence[str]) -> Iterator[Row]:
    """Every stage up to the last of ``stages`` in a process of its own; these are measured."""
    for stage in STAGES[: STAGES.index(stages[-1]) + 1]:
        command = [
            *(sys.executable, "-m", "blender_med", "run", str(folder / "recipe.yaml"), "--quiet"),
            *("--only", stage, "--set", f"name={executor}", "--executor", executor),
        ]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{stage} of {candidates} candidates failed with status {status}")
        if stage in stages:
            manifest = folder / "runs" / executor / stage / "manifest.json"
            seconds = json.loads(manifest.read_text(encoding="utf-8"))["seconds"]
            yield Row(executor, candidates, stage, seconds, usage.ru_maxrss / 1024)


def shown(rows: Sequence[Row]) -> Iterator[str]:
    """A table: seconds, seconds a candidate beyond the first size, peak memory."""
    yield f"{'stage':<10}{'candidates':>12}{'seconds':>10}{'ms/candidate':>14}{'peak MiB':>10}"
    for stage in MEASURED:
        own = [row for row in rows if row.stage == stage and row.executor == "local"]
        for row in own:
            each = marginal(own[0], row)
            cell = "" if each is None else f"{1000 * each:.3f}"
            figures = f"{row.candidates:>12,}{row.seconds:>10.1f}{cell:>14}{row.peak_mib:>10.0f}"
            yield f"{stage:<10}{figures}"
        yield f"{stage}: {verdict(own)}"


def marginal(first: Row, row: Row) -> float | None:
    """Seconds a candidate beyond those of the first size."""
    more = row.candidates - first.candidates
    return (row.seconds - first.seconds) / more if more else None


def verdict(own: Sequence[Row]) -> str:
    """Whether time a candidate and memory stay within 20 % from size to size."""
    each = [value for row in own if (value := marginal(own[0], row)) is not None]
    peaks = [row.peak_mib for row in own]
    growth = max(peaks) / min(peaks)
    slower = max(each) / min(each) if len(each) > 1 else float("nan")
    flat = "flat" if max(growth, slower) <= FLAT else "not flat"
    return f"{flat}: time x {slower:.2f}, memory x {growth:.2f}"


def overhead(rows: Sequence[Row]) -> Iterator[str]:
    """Seconds of the executor ray, and how many more than local."""
    local = {(r.stage, r.candidates): r.seconds for r in rows if r.executor == "local"}
    for row in rows:
        own = local.get((row.stage, row.candidates))
        if row.executor == "ray" and own is not None:
            more = f"{row.seconds - own:+.1f} s, x {row.seconds / own:.2f}"
            yield f"{row.stage}: ray {row.seconds:.1f} s, local {own:.1f} s, {more}"


def merged(rows: Sequence[Row]) -> list[Row]:
    """The rows with those of the results that were not measured now, in order."""
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []
    old = [Row(**row) for row in known]
    new = {(row.executor, row.candidates, row.stage): row for row in [*old, *rows]}
    return sorted(new.values(), key=lambda r: (r.executor, r.candidates, STAGES.index(r.stage)))


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--ray", type=int, metavar="SIZE", help="also measure the executor ray")
    chosen = parser.parse_args()
    found: list[Row] = []
    for size in dict.fromkeys([*chosen.sizes, *([chosen.ray] if chosen.ray else [])]):
        with material(size) as folder:
            stages = STAGES[1:] if size == chosen.ray else MEASURED
            found += measure(folder, size, "local", stages)
            if size == chosen.ray:
                found += measure(folder, size, "ray", SPREAD)
    rows = merged(found)
    print("\n".join([*shown(rows), *overhead(rows)]))
    RESULTS.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
