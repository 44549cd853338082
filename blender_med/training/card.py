"""The model card of a training job: data, metrics, recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blender_med import __version__
from blender_med.config import Recipe
from blender_med.experts.made import ExpertJob
from blender_med.store.files import write_text
from blender_med.training.config import RankerJob
from blender_med.training.embedding_config import EmbeddingFuserJob
from blender_med.training.examples import TrainingExamples
from blender_med.training.fuser_config import FuserJob

CardJob = RankerJob | FuserJob | EmbeddingFuserJob | ExpertJob

_TEMPLATE = """\
---
{front}---
# {name}

{description}
{summary} {verb} with blender_med {version}.

```{language}
{usage}
```

{body}## Recipe
```yaml
{recipe}```

## Limits
{limits}
"""

_TRAINED = """\
## Data
{material} Source: {source}.

| split | questions | {counted} |
| --- | --- | --- |
{data}
Left out, since they teach nothing: {dropped}.

## Results
On the dev questions, by which the weights were chosen (step {best_step}); means over questions.

{figures}
Measured while training:

| step | dev {measured} |
| --- | --- |
{measurements}
"""


@dataclass(frozen=True, slots=True)
class CardText:
    """What one kind of model says about itself.

    Attributes:
        tags: For the Hub.
        backbone: What training started from; empty where it started from nothing.
        summary: What it is, in one sentence.
        usage: Python lines that use it.
        material: What it learned from, beside the source.
        limits: What it cannot do.
        counted: What the table of the data counts in every example, an attribute of it.
    """

    tags: tuple[str, ...]
    backbone: str
    summary: str
    usage: str
    material: str
    limits: str
    counted: str = "candidates"


def write_card(
    file: Path,
    job: CardJob,
    text: CardText,
    examples: TrainingExamples[Any],
    figures: Mapping[str, Mapping[str, float]],
    *,
    metric: str,
    best_step: int,
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Write the card as Markdown with the Hub's front matter.

    Args:
        file: Where to.
        job: The recipe.
        text: What is particular to the kind of model.
        examples: What the model learned from.
        figures: Metrics on dev by name, in columns by name.
        metric: What was logged as the measurement.
        best_step: Step whose weights were kept.
        log: Rows of the training log.
    """
    body = _TRAINED.format(
        material=text.material,
        source=examples.source,
        counted=text.counted.replace("_", " "),
        data=_lines(_data_rows(examples, text.counted)),
        dropped="; ".join(f"{n} {reason}" for reason, n in examples.dropped.items()) or "nothing",
        best_step=best_step,
        figures=_lines(_figure_rows(figures)),
        measured=metric.removeprefix("eval_").replace("_", " "),
        measurements=_lines((r["step"], f"{r[metric]:.4f}") for r in log if metric in r),
    )
    write_text(file, _card(job, text, body, verb="Trained", language="python"))


def write_made_card(
    file: Path,
    job: ExpertJob,
    text: CardText,
    figures: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the card of a model that was made without training; arguments as `write_card`."""
    shown = _lines(_figure_rows(figures)) if figures else ""
    body = f"## Results\n{text.material}\n\n{shown}\n" if figures else ""
    write_text(file, _card(job, text, body, verb="Made", language=""))


def _card(job: CardJob, text: CardText, body: str, *, verb: str, language: str) -> str:
    return _TEMPLATE.format(
        front=_front_matter(text),
        name=job.name,
        description=f"{job.description}\n" if job.description else "",
        summary=text.summary,
        verb=verb,
        version=__version__,
        language=language,
        usage=text.usage,
        body=body,
        recipe=_recipe_text(job),
        limits=text.limits,
    )


def _recipe_text(job: Recipe) -> str:
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _front_matter(text: CardText) -> str:
    entries: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["blender_med", *text.tags],
    }
    if text.backbone:
        entries["base_model"] = text.backbone
    return yaml.safe_dump(entries, sort_keys=False)


def _data_rows(examples: TrainingExamples[Any], counted: str) -> Iterator[tuple[str, int, int]]:
    for name, own in (("train", examples.train), ("dev", examples.dev)):
        yield name, len(own), sum(len(getattr(example, counted)) for example in own)


def _figure_rows(figures: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, ...]]:
    yield ("metric", *figures)
    yield ("---",) * (1 + len(figures))
    columns = list(figures.values())
    for name in columns[0]:
        yield (name, *(f"{column[name]:.4f}" for column in columns))


def _lines(rows: Iterable[tuple[Any, ...]]) -> str:
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
