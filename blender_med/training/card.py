"""The model card of a trained ranker: data, metrics, recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from blender_med import __version__
from blender_med.rankers import RANKERS
from blender_med.store.files import write_text
from blender_med.training.checkpoints import ACCURACY
from blender_med.training.config import RankerJob
from blender_med.training.examples import TrainingExamples

_TEMPLATE = """\
---
{front}---
# {name}

{description}
A {type} ranker: it orders candidate answers to a question. Trained with blender_med {version}.

```python
from {module} import {cls}

ranker = {cls}.from_pretrained("path/to/{name}")
ranker.rank(["What causes anemia?"], [["Iron deficiency.", "It is a kind of rash."]])
```

## Data
Labels: {labels} (higher is better). Source: {source}.

| split | questions | candidates |
| --- | --- | --- |
{data}
Left out, since they teach nothing: {dropped}.

## Results
On the dev questions, by which the weights were chosen (step {best_step}); means over questions.

| metric | value |
| --- | --- |
{figures}
Measured while training:

| step | dev pairwise accuracy |
| --- | --- |
{measurements}
## Recipe
```yaml
{recipe}```

## Limits
A ranker repeats what its labels reward. It does not know whether an answer is medically right, and
its choice is no medical advice.
"""


def write_card(
    file: Path,
    job: RankerJob,
    examples: TrainingExamples,
    figures: Mapping[str, float],
    *,
    best_step: int,
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Write the card as Markdown with the Hub's front matter.

    Args:
        file: Where to.
        job: The recipe.
        examples: What the ranker learned from.
        figures: Metrics on dev by name.
        best_step: Step whose weights were kept.
        log: Rows of the training log.
    """
    module, _, cls = RANKERS[job.ranker.type].partition(":")
    text = _TEMPLATE.format(
        front=_front_matter(job),
        name=job.name,
        description=f"{job.description}\n" if job.description else "",
        type=job.ranker.type,
        version=__version__,
        module=module,
        cls=cls,
        labels=", ".join(job.labels),
        source=examples.source,
        data=_lines(_data_rows(examples)),
        dropped="; ".join(f"{n} {reason}" for reason, n in examples.dropped.items()) or "nothing",
        best_step=best_step,
        figures=_lines((name, f"{value:.4f}") for name, value in figures.items()),
        measurements=_lines((r["step"], f"{r[ACCURACY]:.4f}") for r in log if ACCURACY in r),
        recipe=yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    write_text(file, text)


def _front_matter(job: RankerJob) -> str:
    entries = {
        "library_name": "transformers",
        "tags": ["blender_med", "ranking", job.ranker.type],
        "base_model": job.ranker.backbone,
    }
    return yaml.safe_dump(entries, sort_keys=False)


def _data_rows(examples: TrainingExamples) -> Iterator[tuple[str, int, int]]:
    for name, own in (("train", examples.train), ("dev", examples.dev)):
        yield name, len(own), sum(len(example.candidates) for example in own)


def _lines(rows: Iterator[tuple[Any, ...]]) -> str:
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
