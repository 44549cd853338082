"""Time and peak memory of generate + score on many questions with the fake expert.

    python bench/scale.py                 # 5,000 and 20,000 questions
    python bench/scale.py --sizes 1000 4000

Every size runs in a fresh process; peak memory is the kernel's account of that process. Prints a
table and writes bench/results/scale.json. Linear means: seconds per question stay flat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scale.json"
WORDS = ("fever", "cough", "chest", "pain", "treatment", "dose", "kidney", "liver", "heart", "risk")


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


def recipe(folder: Path, data: Path) -> dict[str, Any]:
    """Two fake experts, three long-form samples each."""
    fake = {"engine": "fake", "engine_options": {"accuracy": 0.5}}
    return {
        "name": "scale",
        "output_dir": str(folder / "runs"),
        "dataset": {"type": "jsonl", "path": str(data)},
        "experts": [{"name": "first", **fake}, {"name": "second", **fake}],
        "stages": [
            "prepare",
            {"type": "generate", "long": {"samples": 3, "sampling": {"temperature": 0.7}}},
            "score",
        ],
    }


def measure(count: int) -> dict[str, float]:
    """Seconds and peak resident memory of one run over ``count`` questions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder / "questions.jsonl", count)
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(recipe(folder, folder / "questions.jsonl")), encoding="utf-8")
        command = [sys.executable, "-m", "blender_med", "run", str(path), "--quiet"]
        environment = os.environ | {"BLENDER_MED_CACHE": str(folder / "cache")}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            sys.exit(f"the run over {count} questions failed with status {status}")
        return {"questions": count, "seconds": seconds, "peak_mib": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure every size and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000])
    rows = [measure(count) for count in parser.parse_args().sizes]
    print(f"{'questions':>10} {'seconds':>9} {'ms/question':>12} {'peak MiB':>9}")
    for row in rows:
        each = 1000 * row["seconds"] / row["questions"]
        print(
            f"{row['questions']:>10,} {row['seconds']:>9.1f} {each:>12.2f} {row['peak_mib']:>9.0f}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
