"""GPU-hours per stage for runs of 1 k, 100 k and 10 M questions, from the measurements beside it.

    python bench/capacity.py                                  # the tables of docs/guides/cluster.md
    python bench/capacity.py --peak-tflops 312                # another GPU (A100)
    python bench/capacity.py --tokens-per-second 9000         # measured by bench/generate.py there

Seconds a question take, with everything measured on one small machine:

    generate   experts x samples x tokens / tokens a second
    score      candidates x seconds a candidate
    rank       comparisons x seconds a comparison
    fuse       seconds an answer

A larger model and another machine scale the seconds by what the work costs and by what the
machine can do, at the same share of its peak:

    seconds x (parameters / parameters measured) x (peak measured / peak)

Only the small models are measured; the GPU columns are extrapolated by this formula. Loading
(minutes an engine) comes on top.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
COUNTS = (1_000, 100_000, 10_000_000)
# docs/results/ranker.md: stage score, 1,800 questions with six candidates each, 19 minutes.
SCORED_SECONDS = 19 * 60 / (1_800 * 6)
# Parameters that multiply: those of SmolLM2-135M, of MiniLM-L6 and of DeBERTa-v3-large without
# their embeddings, of Flan-T5-base and of Flan-T5-XL.
SMOLLM2, MINILM, DEBERTA, T5_BASE, T5_XL = 135e6, 10.6e6, 304e6, 248e6, 2.85e9


@dataclass(frozen=True)
class Machine:
    """What was measured on the small machine: peak in operations a second, seconds of work."""

    peak: float
    token: float
    comparison: float
    answer: float


@dataclass(frozen=True)
class Study:
    """A run: experts of a size, samples of each, tokens of an answer, sizes of ranker and fuser."""

    name: str
    experts: int
    samples: int
    tokens: int
    expert: float
    ranker: float
    fuser: float

    @property
    def candidates(self) -> int:
        return self.experts * self.samples


SMALL = Study("2 experts of 135 M, 3 samples, 160 tokens; MiniLM; Flan-T5-base", 2, 3, 160,
              SMOLLM2, MINILM, T5_BASE)  # fmt: skip
LARGE = Study("3 experts of 7.2 B, 2 samples, 160 tokens; DeBERTa-v3-large; Flan-T5-XL", 3, 2, 160,
              7.2e9, DEBERTA, T5_XL)  # fmt: skip


def measured() -> Machine:
    """The figures of bench/results."""
    generate, ranker, fuser = (read(name) for name in ("generate", "pairranker", "fuser"))
    block = next(value for key, value in ranker.items() if key.startswith("minilm"))
    candidates = ranker["minilm 128/128"]["settings"]["candidates"]
    questions = block["questions_per_second"]["bfloat16"]
    return Machine(
        peak=block["matrix_products"]["bfloat16"]["peaks"]["square_peak"],
        token=1 / generate["tokens_per_second"]["blender_med"],
        comparison=1 / (questions * candidates * (candidates - 1)),
        answer=1 / fuser["answers_per_second"]["bfloat16"],
    )


def read(name: str) -> dict[str, Any]:
    """Results of one bench."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def seconds(study: Study, machine: Machine, peak: float, token: float | None) -> dict[str, float]:
    """Seconds of one device a question, by stage.

    Args:
        study: The run.
        machine: What was measured.
        peak: Of the device, in operations a second.
        token: Seconds a generated token where that was measured there; None: by the formula.
    """
    speed = machine.peak / peak
    n = study.candidates
    scaled = machine.token * study.expert / SMOLLM2 * speed
    return {
        "generate": n * study.tokens * (scaled if token is None else token),
        "score": n * SCORED_SECONDS * speed,
        "rank": n * (n - 1) * machine.comparison * study.ranker / MINILM * speed,
        "fuse": machine.answer * study.fuser / T5_BASE * speed,
    }


def rows(stages: dict[str, float]) -> Iterator[str]:
    """Lines of a table of device-hours."""
    yield "| stage | seconds a question | " + " | ".join(f"{n:,}" for n in COUNTS) + " |"
    yield "| --- | --- | " + " | ".join("---" for _ in COUNTS) + " |"
    for name, each in (stages | {"together": sum(stages.values())}).items():
        hours = " | ".join(rounded(n * each / 3600) for n in COUNTS)
        yield f"| {name} | {each:.2g} | {hours} |"


def rounded(hours: float) -> str:
    """Two digits: no more than the formula is worth."""
    digits = f"{hours:.2g}"
    return digits if hours < 10 else f"{float(digits):,.0f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="default: H100, bfloat16")
    parser.add_argument("--tokens-per-second", type=float, help="of one 7B expert on one GPU")
    chosen = parser.parse_args()
    machine = measured()
    token = None if chosen.tokens_per_second is None else 1 / chosen.tokens_per_second
    print(f"Hours of the measured machine (peak {machine.peak / 1e12:.2f} TFLOP/s). {SMALL.name}\n")
    print("\n".join(rows(seconds(SMALL, machine, machine.peak, None))))
    print(f"\nGPU-hours at a peak of {chosen.peak_tflops:g} TFLOP/s. {LARGE.name}\n")
    print("\n".join(rows(seconds(LARGE, machine, chosen.peak_tflops * 1e12, token))))


if __name__ == "__main__":
    main()
