"""Size, speed and answers of an expert in the engine that serves it, for the cards of jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from blender_med.data.tuning import TuningExample
from blender_med.experts.config import ExpertConfig, Sampling
from blender_med.experts.loading import load_expert
from blender_med.experts.local import LocalExpert, fetch_weights
from blender_med.metrics import METRICS
from blender_med.training.fuser_config import TEXT_METRICS

_TOKENS = 96  # of an answer
_WORDS = 96  # of a reference whose probability is asked for
_MIB = 1 << 20


def engine_figures(expert: ExpertConfig, examples: Sequence[TuningExample]) -> dict[str, float]:
    """Figures of an expert; the engine is started, warmed up with one prompt, and stopped.

    Args:
        expert: Whose engine it is.
        examples: Questions that are answered greedily, at least one.

    Returns:
        Files of the weights and peak memory of the engine's process in MiB (memory is left out
        where the system does not say it), tokens per second, mean log-probability of the first
        96 words of a reference in nats, means of the text metrics (the last two: higher is
        better).
    """
    references = [example.answer for example in examples]
    loaded = load_expert(expert)
    try:
        prompts = [loaded.render(example.question, _TOKENS) for example in examples]
        sampling, seeds = Sampling(max_tokens=_TOKENS), [0] * len(prompts)
        loaded.generate(prompts[:1], sampling, n=1, seeds=[0])
        started = time.perf_counter()
        made = loaded.generate(prompts, sampling, n=1, seeds=seeds)
        seconds = time.perf_counter() - started
        scored = loaded.choice_logprobs(prompts, [[_beginning(text)] for text in references])
        memory = _peak_memory(loaded.pid if isinstance(loaded, LocalExpert) else None)
    finally:
        loaded.close()
    texts = [one.text for (one,) in made]
    tokens = sum(one.completion_tokens for (one,) in made)
    return {
        "weights, MiB": _weights(Path(fetch_weights(expert))),
        **({} if memory is None else {"engine's memory, MiB": memory}),
        "tokens per second": tokens / seconds,
        "logprob of a reference": fmean(own.logprobs[0] for own in scored),
        **{name: fmean(METRICS.load(name)(texts, references)) for name in TEXT_METRICS},
    }


def _beginning(reference: str) -> str:
    """The first words of a text, as a choice."""
    return " " + " ".join(reference.split()[:_WORDS])


def _weights(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / _MIB


def _peak_memory(process: int | None) -> float | None:
    file = Path(f"/proc/{process}/status")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else None
