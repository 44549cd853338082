"""How well an expert answers questions whose answers are known, for the cards of jobs."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from blender_med.experts.config import ExpertConfig, Sampling
from blender_med.experts.local import model_source
from blender_med.experts.requests import ChoiceRequest, EngineSpec, GenerateRequest
from blender_med.experts.transformers import TransformersEngine
from blender_med.metrics import METRICS
from blender_med.models import quiet
from blender_med.training.finetune_batches import Row
from blender_med.training.fuser_config import TEXT_METRICS

LOGPROB = "answer logprob per token"
PERPLEXITY = "perplexity"


def answer_figures(
    expert: ExpertConfig, rows: Sequence[Row], references: Sequence[str], max_tokens: int
) -> dict[str, float]:
    """Figures of an expert in the transformers engine, in this process.

    Args:
        expert: Whose weights are loaded; the rows are prompts of its own.
        rows: Prompts with the answers that are scored, at least one.
        references: Of the first rows: for these a text is generated, greedily.
        max_tokens: Of a text.

    Returns:
        Mean log-probability of the answers' tokens in nats (higher is better), perplexity (lower
        is better), and means of the text metrics where there are references (higher is better).
    """
    source, revision = model_source(expert)
    loras = () if expert.lora is None else (expert.lora,)
    cuda = torch.cuda.is_available()
    with quiet():
        engine = TransformersEngine(
            EngineSpec("transformers", expert, source, revision, loras, cuda)
        )
    found = _likelihood(engine, rows, expert.lora)
    found |= _written(engine, rows[: len(references)], references, max_tokens, expert.lora)
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return found


def _likelihood(engine: Any, rows: Sequence[Row], lora: str | None) -> dict[str, float]:
    requests = [ChoiceRequest(row.prompt, [row.answer], lora) for row in rows]
    sums = [value for (value,) in engine.choice_logprobs(requests, _no_tick)]
    mean = sum(sums) / sum(len(row.answer) for row in rows)
    return {LOGPROB: mean, PERPLEXITY: math.exp(-mean)}


def _written(
    engine: Any,
    rows: Sequence[Row],
    references: Sequence[str],
    max_tokens: int,
    lora: str | None,
) -> dict[str, float]:
    if not references:
        return {}
    requests = [GenerateRequest(row.prompt, 0, lora) for row in rows]
    made = engine.generate(requests, Sampling(max_tokens=max_tokens), 1, _no_tick)
    texts = [one.text for (one,) in made]
    return {
        name: fmean(METRICS.load(name)(texts, list(references)))
        for name in TEXT_METRICS
        if name != "length"
    }


def _no_tick() -> None:
    return None
