"""Tokens per second of an expert against bare vLLM and transformers on the same prompts.

    python bench/generate.py --expert smollm2-135m --prompts 240 --rounds 3

In every round each side in turn loads the model in a process of its own, answers a few prompts
unmeasured, is measured, and ends, so that no side's threads disturb another's; the order
alternates, and the figures are medians over the rounds. The bare vLLM side is what one would
write by hand: ``LLM(...)`` and one ``generate`` over the prompts.
Results go to bench/results/generate.json and generate.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import blender_med
from blender_med.experts import ExpertConfig, Prompt, Sampling, load_expert, load_expert_config
from blender_med.experts.local import model_source
from blender_med.experts.vllm import vllm_environment

RESULTS = Path(__file__).parent / "results"
SIDES = ("blender_med", "vllm", "transformers")
WARM_UP = 8
BATCH = 32


class Package:
    """The expert as the stages use it: rendered prompts in, completions out."""

    def __init__(self, config: ExpertConfig, prompts: list[Prompt], max_tokens: int) -> None:
        self._expert = load_expert(config)
        self._prompts = prompts
        self._sampling = Sampling(max_tokens=max_tokens)
        self.run(WARM_UP)

    def run(self, count: int) -> tuple[int, float]:
        """Generated tokens and seconds over the first ``count`` prompts."""
        prompts = self._prompts[:count]
        started = time.perf_counter()
        rows = self._expert.generate(prompts, self._sampling, n=1, seeds=range(len(prompts)))
        seconds = time.perf_counter() - started
        return sum(row[0].completion_tokens for row in rows), seconds

    def close(self) -> None:
        self._expert.close()


class Peer:
    """A peer in a spawned process, which answers ``count`` with (tokens, seconds)."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that a peer that dies ends the wait
        self.run(WARM_UP)

    def run(self, count: int) -> tuple[int, float]:
        self._connection.send(count)
        tokens, seconds = self._connection.recv()
        return tokens, seconds

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


def serve_vllm(
    connection: Connection, model: str, texts: list[str], max_len: int, max_tokens: int
) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="bfloat16", max_model_len=max_len, enforce_eager=True, seed=0)
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    while True:
        count = connection.recv()
        started = time.perf_counter()
        outputs = llm.generate(texts[:count], sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        connection.send((sum(len(o.outputs[0].token_ids) for o in outputs), seconds))


def serve_transformers(
    connection: Connection, model: str, texts: list[str], max_len: int, max_tokens: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    while True:
        count = connection.recv()
        started = time.perf_counter()
        tokens = 0
        for start in range(0, count, BATCH):
            batch = tokenizer(
                texts[start : start + BATCH],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=max_len - max_tokens,
            )
            with torch.inference_mode():
                output = network.generate(**batch, max_new_tokens=max_tokens, do_sample=False)
            new = output[:, batch["input_ids"].shape[1] :]
            tokens += sum(map(partial(generated, tokenizer.eos_token_id), new.tolist()))
        connection.send((tokens, time.perf_counter() - started))


def generated(eos: int, ids: list[int]) -> int:
    return ids.index(eos) + 1 if eos in ids else len(ids)


def rendered(config: ExpertConfig, count: int, max_tokens: int) -> list[Prompt]:
    expert = load_expert(config)
    questions = list(blender_med.load_questions("sample"))[:count]
    prompts = [expert.render(question, max_tokens) for question in questions]
    expert.close()
    if len(prompts) < count:
        raise SystemExit(f"only {len(prompts)} sample questions; lower --prompts")
    return prompts


def measure(
    sides: dict[str, Callable[[], Package | Peer]], count: int, rounds: int
) -> dict[str, list[tuple[int, float]]]:
    runs: dict[str, list[tuple[int, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            share = count if name != "transformers" else min(count, 2 * BATCH)
            with contextlib.closing(sides[name]()) as side:
                runs[name].append(side.run(share))
            tokens, seconds = runs[name][-1]
            print(f"round {number + 1} {name}: {tokens} tokens in {seconds:.1f} s", flush=True)
    return runs


def summary(runs: dict[str, list[tuple[int, float]]], settings: dict[str, Any]) -> dict[str, Any]:
    rates = {name: [tokens / seconds for tokens, seconds in own] for name, own in runs.items()}
    medians = {name: statistics.median(own) for name, own in rates.items()}
    ratios = {
        f"blender_med / {name}": statistics.median(
            ours / theirs for ours, theirs in zip(rates["blender_med"], rates[name], strict=True)
        )
        for name in rates
        if name != "blender_med"
    }
    return {"settings": settings, "tokens_per_second": medians, "ratios": ratios, "rounds": rates}


def write(result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "generate.json").write_text(json.dumps(result, indent=2) + "\n")
    settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items())
    lines = [
        "# Generation speed",
        "",
        settings,
        "",
        "| side | tokens/s (median) |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in result["tokens_per_second"].items()]
    lines += ["", "| ratio | median of the rounds |", "| --- | --- |"]
    lines += [f"| {name} | {ratio:.3f} |" for name, ratio in result["ratios"].items()]
    (RESULTS / "generate.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expert", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES[1:], default=list(SIDES[1:]))
    chosen = parser.parse_args()
    config = load_expert_config(chosen.expert)
    prompts = rendered(config, chosen.prompts, chosen.max_tokens)
    folder, _ = model_source(config)
    os.environ.update(vllm_environment(cuda=False, verbose=False), HF_HUB_OFFLINE="1")
    arguments = (folder, [p.text for p in prompts], config.max_model_len, chosen.max_tokens)
    peers = {"vllm": serve_vllm, "transformers": serve_transformers}
    sides: dict[str, Callable[[], Package | Peer]] = {
        "blender_med": partial(Package, config, prompts, chosen.max_tokens)
    }
    sides |= {name: partial(Peer, peers[name], *arguments) for name in chosen.sides}
    settings = {
        name: getattr(chosen, name) for name in ("expert", "prompts", "max_tokens", "rounds")
    }
    write(summary(measure(sides, chosen.prompts, chosen.rounds), settings))


if __name__ == "__main__":
    main()
