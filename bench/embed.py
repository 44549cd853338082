"""Hidden states per second of stage embed's expert against a plain transformers loop.

    python bench/embed.py --data PATH_TO_PUBMEDQA --questions 48
    python bench/embed.py --type medmcqa --data PATH_TO_MEDMCQA --questions 128

Every option of every question is embedded with its question, last token, by both sides. The plain
loop is what one would write by hand: the same weights in the same number format, batches of 8 in
the order of the data, padded. Each side loads, embeds
some questions unmeasured, and is then measured on slices of the questions in changing order. The
largest difference of the states is reported beside the ratio. Results go to
bench/results/embed.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blender_med import load_questions
from blender_med.experts import load_expert_config
from blender_med.experts.base import StateExpert
from blender_med.experts.config import StateConfig
from blender_med.experts.loading import load_state_experts
from blender_med.experts.local import model_source
from blender_med.records import Question

RESULTS = Path(__file__).parent / "results" / "embed.json"
REQUIRED = 1.5  # times as fast as the plain loop
BATCH = 8

Side = Callable[[Sequence[Any]], np.ndarray]


def ours(expert: StateExpert) -> Side:
    def run(prompts: Sequence[Any]) -> np.ndarray:
        return np.stack(expert.hidden_states(prompts))[:, 0]

    return run


def plain(folder: str, dtype: str) -> Side:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def run(prompts: Sequence[Any]) -> np.ndarray:
        rows = []
        for start in range(0, len(prompts), BATCH):
            texts = [prompt.text for prompt in prompts[start : start + BATCH]]
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            last = batch["attention_mask"].sum(dim=1) - 1
            rows.append(states[torch.arange(len(texts)), last].float().numpy())
        return np.concatenate(rows)

    return run


def rendered(expert: StateExpert, questions: Sequence[Question]) -> list[list[Any]]:
    """Prompts of the options, question by question."""
    return [
        [expert.render_states(question, option=i) for i in range(len(question.options or ()))]
        for question in questions
    ]


def measure(sides: dict[str, Side], slices: Sequence[Sequence[Any]]) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    largest = 0.0
    for number, prompts in enumerate(slices):
        turn = number % len(sides)
        states = {}
        for name in [*list(sides)[turn:], *list(sides)[:turn]]:
            started = time.perf_counter()
            states[name] = sides[name](prompts)
            seconds[name].append(time.perf_counter() - started)
        print({name: round(own[-1], 2) for name, own in seconds.items()}, flush=True)
        largest = max(largest, float(np.abs(states["blender_med"] - states["plain"]).max()))
    return {"seconds": seconds, "largest_difference": largest}


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    config = load_expert_config(chosen.expert).model_copy(update={"dtype": chosen.dtype})
    if chosen.block_size:
        options = {**config.engine_options, "block_size": chosen.block_size}
        config = config.model_copy(update={"engine_options": options})
    (expert,) = load_state_experts([config], StateConfig())
    questions = list(load_questions(chosen.type, chosen.data, limit=chosen.questions + 8))
    prompts = rendered(expert, questions)
    sides = {"blender_med": ours(expert), "plain": plain(model_source(config)[0], chosen.dtype)}
    warm, own = prompts[:8], prompts[8:]
    for side in sides.values():  # unmeasured
        side([prompt for row in warm for prompt in row])
    starts = range(0, len(own), chosen.slice)
    slices = [[p for row in own[s : s + chosen.slice] for p in row] for s in starts]
    measured = measure(sides, slices)
    expert.close()
    totals = {name: sum(seconds) for name, seconds in measured["seconds"].items()}
    texts = sum(map(len, slices))
    tokens = sum(prompt.tokens for part in slices for prompt in part)
    ratio = totals["plain"] / totals["blender_med"]
    return {
        "texts": texts,
        "tokens": tokens,
        "tokens_per_second": {name: tokens / total for name, total in totals.items()},
        "texts_per_second": {name: texts / total for name, total in totals.items()},
        "times_as_fast_as_plain": ratio,
        "requirements": {f"{REQUIRED} times as fast": ratio >= REQUIRED},
        **measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="pubmedqa", help="type of the data set")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--expert", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--slice", type=int, default=16, help="questions embedded in one call")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--block-size", type=int, help="tokens of a shared block, of vLLM")
    chosen = parser.parse_args()
    result = run(chosen)
    settings = {k: v for k, v in vars(chosen).items() if k != "data"}
    settings["machine"] = platform.machine()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
