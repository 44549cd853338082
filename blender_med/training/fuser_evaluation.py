"""How good the texts are that a fuser writes for dev questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from blender_med.data.fusion import FusionExample
from blender_med.fusers.config import Decoding
from blender_med.fusers.generation import TransformersEngine
from blender_med.metrics import METRICS
from blender_med.training.fuser_batches import dev_prompt
from blender_med.training.fuser_config import TEXT_METRICS
from blender_med.training.fuser_model import FuserModel


def text_values(
    metric: str, texts: Sequence[str], examples: Sequence[FusionExample]
) -> list[float]:
    """Values of a text metric against the references, [n]."""
    values: list[float] = METRICS.load(metric)(list(texts), [e.target for e in examples])
    return values


def written(
    fuser: FuserModel, examples: Sequence[FusionExample], top_k: int, decoding: Decoding
) -> list[str]:
    """What the model writes for each example, empty texts as they are."""
    prompts = [dev_prompt(fuser.formatter, example, top_k) for example in examples]
    engine = TransformersEngine(fuser.model, fuser.formatter)
    return [generation.text for generation in engine.generate(prompts, decoding)]


def dev_columns(
    texts: Sequence[str], examples: Sequence[FusionExample]
) -> Mapping[str, Mapping[str, float]]:
    """Means of every text metric, of the texts and of the best candidates."""
    best = [example.candidates[0] for example in examples]
    return {
        name: {metric: fmean(text_values(metric, own, examples)) for metric in TEXT_METRICS}
        for name, own in (("fuser", texts), ("best candidate", best))
    }
