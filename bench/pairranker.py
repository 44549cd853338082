"""Questions ranked per second against llm-blender's own ``rank`` with the same weights.

    python bench/pairranker.py --data ../shared/data/medquad --ranker models/pairranker-minilm
    python bench/pairranker.py --data ../shared/data/medquad --questions 32 --backbones minilm
    python bench/pairranker.py --data ../shared/data/medquad --backbones deberta \\
        --deberta-size large --deberta-questions 32 --device cuda

The peer is llm-blender 0.0.2 with transformers 4.46.3 in an environment of its own, which the
first run installs; it ranks in float32 with its own batches of eight questions and compares all
pairs. Every MedQuAD question gets eight candidates of 10 to 300 words made of the data, see
bench/ranker_material.py. Without --ranker a substitute on MiniLM is trained for some minutes on
other questions, with ROUGE-L to the reference as label. For rows longer than MiniLM's 512 places
the table of places is repeated, for both sides. The second backbone has the shape of
DeBERTa-v3-base or -large and random weights: its logits nearly tie, so its agreement says nothing.

The questions are taken in slices, and on each slice the sides run one after the other in changing
order, so that a change of the machine's speed meets all of them. The peer takes part in the first
slices only; ratios are of the times on these. Results go to bench/results/pairranker.json, where
those of other shapes, lengths and devices stay.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer import Peer
from ranker_material import (
    CANDIDATES,
    TRAINED_ON,
    Group,
    groups,
    random_deberta,
    train_substitute,
    with_positions,
)
from ranker_work import matrix_peaks, operations, padding_share

from blender_med.rankers.pairranker import PairRanker
from blender_med.rankers.pairrm_checkpoint import export_pairrm

RESULTS = Path(__file__).parent / "results" / "pairranker.json"
SCRIPT = Path(__file__).with_name("pairranker_peer.py")
PACKAGES = ("llm-blender==0.0.2", "transformers==4.46.3")
PEER_BATCH = 8  # questions; its default
TOP_K = 3
CHECKED = 4  # candidates of each question whose logits are checked
OURS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "adaptive": {"dtype": "bfloat16", "strategy": "adaptive", "top_k": TOP_K},
}
FASTER = {"float32": 1.8, "bfloat16": 5.0, "adaptive": 12.0}  # times as fast as the peer
LARGEST_DIFFERENCE = 1e-3
SAME_BEST, SAME_FIRST = 0.99, 0.97
MOST_PADDING = 0.03


@dataclass
class Measured:
    """What a side has done: seconds by slice, and by question its scores, logits and cost."""

    seconds: list[float] = field(default_factory=list)
    scores: list[Sequence[float]] = field(default_factory=list)
    logits: list[Any] = field(default_factory=list)
    comparisons: int = 0
    tokens: int = 0

    def add(self, other: Measured) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


Side = Callable[[Sequence[Group]], Measured]


def ours(ranker: PairRanker, settings: Mapping[str, Any]) -> Side:
    def run(questions: Sequence[Group]) -> Measured:
        started = time.perf_counter()
        found = ranker.rank(*map(list, zip(*questions, strict=True)), **settings)
        return Measured(
            [time.perf_counter() - started],
            [own.scores for own in found],
            [own.pairwise_logits for own in found],
            sum(own.comparisons for own in found),
            sum(own.tokens for own in found),
        )

    return run


def peers(peer: Peer, batch_size: int) -> Side:
    def run(questions: Sequence[Group]) -> Measured:
        sources, candidates = zip(*questions, strict=True)
        answer = peer.ask(sources=sources, candidates=candidates, batch_size=batch_size)
        return Measured([answer["seconds"]], answer["scores"], answer["logits"])

    return run


def measure(
    sides: Mapping[str, Side], slices: Sequence[Sequence[Group]], with_peer: int
) -> dict[str, Measured]:
    """What all sides do on the slices; the peer on the first ``with_peer`` of them."""
    measured = {name: Measured() for name in sides}
    for number, questions in enumerate(slices):
        turn = number % len(sides)
        for name in [*list(sides)[turn:], *list(sides)[:turn]]:
            if name != "peer" or number < with_peer:
                measured[name].add(sides[name](questions))
        spent = ", ".join(f"{name} {sum(own.seconds):.1f} s" for name, own in measured.items())
        print(f"  slice {number + 1} of {len(slices)}: {spent}", flush=True)
    return measured


def agreement(left: Measured, right: Measured) -> dict[str, float]:
    """Share of questions with the same best candidate, and with the same first three."""
    both = list(zip(left.scores, right.scores, strict=False))
    same_best = [first(a, 1) == first(b, 1) for a, b in both]
    same_first = [first(a, TOP_K) == first(b, TOP_K) for a, b in both]
    return {"same_best": float(np.mean(same_best)), f"same_{TOP_K}": float(np.mean(same_first))}


def first(scores: Sequence[float], count: int) -> set[int]:
    order: NDArray[np.intp] = np.argsort(-np.asarray(scores), kind="stable")
    return set(order[:count].tolist())


def summary(measured: Mapping[str, Measured], questions: int) -> dict[str, Any]:
    """Speeds on the slices of the peer, and how far the sides agree on all questions."""
    slices = len(measured["peer"].seconds)
    asked = len(measured["peer"].scores)
    spent = {name: sum(own.seconds[:slices]) for name, own in measured.items()}
    return {
        "questions": {"all": questions, "peer": asked},
        "questions_per_second": {name: asked / total for name, total in spent.items()},
        "times_as_fast_as_peer": {name: spent["peer"] / spent[name] for name in OURS},
        "adaptive_comparisons_per_question": measured["adaptive"].comparisons / questions,
        "agreement": {
            "peer and float32": agreement(measured["peer"], measured["float32"]),
            "float32 and bfloat16": agreement(measured["float32"], measured["bfloat16"]),
            "bfloat16 and adaptive": agreement(measured["bfloat16"], measured["adaptive"]),
            "float32 and adaptive": agreement(measured["float32"], measured["adaptive"]),
        },
    }


def largest_difference(ranker: PairRanker, peer: Peer, questions: Sequence[Group]) -> float:
    """Between our float32 logits and the peer's, which fits lengths as we do in batches of one."""
    theirs, own = peers(peer, 1)(questions), ours(ranker, OURS["float32"])(questions)
    return float(np.abs(np.asarray(theirs.logits) - np.asarray(own.logits)).max())


def speed_of_products(
    ranker: PairRanker, measured: Mapping[str, Measured], questions: Sequence[Group]
) -> dict[str, Any]:
    """Operations per second of both formats, and their share of what the machine reaches."""
    work = operations(ranker, questions)
    result = {}
    for name in ("float32", "bfloat16"):
        peaks = matrix_peaks(ranker.config.backbone_config, getattr(torch, name))
        rate = work / sum(measured[name].seconds)
        shares = {f"share_of_{kind}": rate / peak for kind, peak in peaks.items()}
        result[name] = {"flops": rate, "peaks": peaks, **shares}
    return result


def requirements(result: Mapping[str, Any], *, is_trained: bool) -> dict[str, bool]:
    met = {
        f"{name}: {least} times as fast": result["times_as_fast_as_peer"][name] >= least
        for name, least in FASTER.items()
    }
    close = result["largest_difference_from_peer"] <= LARGEST_DIFFERENCE
    met[f"float32: logits within {LARGEST_DIFFERENCE}"] = close
    met["padding below 3 %"] = result["padding_share"] < MOST_PADDING
    if not is_trained:
        return met
    for pair in ("float32 and bfloat16", "bfloat16 and adaptive", "float32 and adaptive"):
        met[f"{pair}: same best on 99 %"] = result["agreement"][pair]["same_best"] >= SAME_BEST
    for pair in ("bfloat16 and adaptive", "float32 and adaptive"):
        kept = result["agreement"][pair][f"same_{TOP_K}"]
        met[f"{pair}: same first {TOP_K} on 97 %"] = kept >= SAME_FIRST
    return met


def compared(
    ranker: PairRanker, rows: Sequence[Group], chosen: argparse.Namespace, *, is_trained: bool
) -> dict[str, Any]:
    """All measurements of one ranker."""
    slices = [rows[start : start + chosen.slice] for start in range(0, len(rows), chosen.slice)]
    few = [(question, texts[:CHECKED]) for question, texts in rows[: chosen.checked]]
    peer = Peer(SCRIPT, PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        export_pairrm(ranker, folder)
        peer.ask(load=folder, device=chosen.device)
        sides = {"peer": peers(peer, PEER_BATCH)}
        sides |= {name: ours(ranker, settings) for name, settings in OURS.items()}
        for side in sides.values():  # unmeasured
            side(few[:1])
        difference = largest_difference(ranker, peer, few)
        measured = measure(sides, slices, chosen.peer_slices)
        peer.close()
    result = summary(measured, len(rows))
    result["largest_difference_from_peer"] = difference
    result["padding_share"] = padding_share(ranker, few)
    if chosen.device == "cpu":
        result["matrix_products"] = speed_of_products(ranker, measured, rows)
    result["seconds"] = {name: own.seconds for name, own in measured.items()}
    return result | {"requirements": requirements(result, is_trained=is_trained)}


def rankers(chosen: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Folder of the ranker on each backbone."""
    found: dict[str, Path] = {}
    if "minilm" in chosen.backbones:
        found["minilm"] = chosen.ranker
        if chosen.ranker is None:
            print(f"training a substitute on {TRAINED_ON} other questions", flush=True)
            rows = list(groups(chosen.data))[-TRAINED_ON:]
            found["minilm"] = train_substitute(rows, folder / "substitute")
    if "deberta" in chosen.backbones:
        found["deberta"] = random_deberta(folder / "deberta", chosen.deberta_size)
    return found


def report(name: str, result: Mapping[str, Any]) -> None:
    print(f"\n{name}")
    for key, value in result.items():
        if key not in ("requirements", "seconds"):
            print(f"  {key}: {json.dumps(value)}")
    for text, met in result["requirements"].items():
        print(f"  {'met    ' if met else 'NOT MET'} {text}", flush=True)


def run(chosen: argparse.Namespace, folder: Path) -> None:
    most = max(chosen.questions, chosen.deberta_questions)
    rows = [(question.question, texts) for question, texts in islice(groups(chosen.data), most)]
    for backbone, source in rankers(chosen, folder).items():
        is_trained = backbone == "minilm"
        count = chosen.questions if is_trained else chosen.deberta_questions
        for length in chosen.lengths:
            shape = backbone if is_trained else f"{backbone}-{chosen.deberta_size}"
            device = "" if chosen.device == "cpu" else f" on {chosen.device}"
            name = f"{shape} {length}/{length}{device}"
            print(name, flush=True)
            ranker = PairRanker.from_pretrained(
                source, source_maxlength=length, candidate_maxlength=length
            )
            ranker = with_positions(ranker, 3 * length).to(chosen.device)
            result = compared(ranker, rows[:count], chosen, is_trained=is_trained)
            report(name, result)
            save(name, {"settings": settings(chosen, source if is_trained else None)} | result)


def settings(chosen: argparse.Namespace, ranker: Path | None) -> dict[str, Any]:
    """What a measurement depends on beside the code."""
    trained = "substitute" if chosen.ranker is None else chosen.ranker.name
    return {
        "slice": chosen.slice, "peer_slices": chosen.peer_slices, "checked": chosen.checked,
        "ranker": "random" if ranker is None else trained,
        "candidates": CANDIDATES, "peer": PACKAGES, "peer_batch": PEER_BATCH,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": platform.machine(),
    }  # fmt: skip


def save(name: str, result: Mapping[str, Any]) -> None:
    """Put one measurement into the results; the others stay."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known | {name: result}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MedQuAD in its original format")
    parser.add_argument("--ranker", type=Path, help="folder of a trained PairRanker on MiniLM")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--deberta-questions", type=int, default=2)
    parser.add_argument("--deberta-size", choices=("base", "large"), default="base")
    parser.add_argument("--device", default="cpu", help="of both sides, such as cuda")
    parser.add_argument("--slice", type=int, default=16, help="questions ranked in one call")
    parser.add_argument("--peer-slices", type=int, default=1, help="slices the peer takes part in")
    parser.add_argument("--checked", type=int, default=8, help="questions of the check of logits")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256])
    choices = ["minilm", "deberta"]
    parser.add_argument("--backbones", nargs="+", choices=choices, default=choices)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(chosen, Path(folder))


if __name__ == "__main__":
    main()
