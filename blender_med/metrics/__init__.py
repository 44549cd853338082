"""Candidate metrics by name, and what each applies to. Light: no metric is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from blender_med.records import Task
from blender_med.registry import Registry


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a candidate metric is.

    Attributes:
        target: ``"module:function"``. A text metric is a pure function
            ``score(candidates: Sequence[str], references: Sequence[str]) -> list[float]``; for one
            that needs a model, the class of its scorer (``scoring.ModelScorer``).
        task: Questions it applies to. A metric of ``mcq`` takes choice indices in place of texts.
        directed: Whether higher is better; False for a descriptive figure, which is never tested
            and never picks a candidate.
        model: Field of ``config.MetricModels`` that names its model; metrics of one model are
            computed together. None for a metric that needs none.
    """

    target: str
    task: Task
    directed: bool = True
    model: str | None = None


_BERTSCORE = "blender_med.metrics.bertscore:BertScorer"
_BARTSCORE = "blender_med.metrics.bartscore:BartScorer"

METRIC_SPECS: dict[str, MetricSpec] = {
    "rouge1": MetricSpec("blender_med.metrics.overlap:rouge1", "long"),
    "rouge2": MetricSpec("blender_med.metrics.overlap:rouge2", "long"),
    "rougeL": MetricSpec("blender_med.metrics.overlap:rouge_l", "long"),
    "bleu": MetricSpec("blender_med.metrics.overlap:bleu", "long"),
    "chrf": MetricSpec("blender_med.metrics.overlap:chrf", "long"),
    "bertscore_p": MetricSpec(_BERTSCORE, "long", model="bertscore"),
    "bertscore_r": MetricSpec(_BERTSCORE, "long", model="bertscore"),
    "bertscore_f1": MetricSpec(_BERTSCORE, "long", model="bertscore"),
    "bartscore": MetricSpec(_BARTSCORE, "long", model="bartscore"),
    "bartscore_reverse": MetricSpec(_BARTSCORE, "long", model="bartscore"),
    "length": MetricSpec("blender_med.metrics.overlap:length", "long", directed=False),
    "correct": MetricSpec("blender_med.metrics.choice:correct", "mcq"),
}

METRICS = Registry("metric", {name: spec.target for name, spec in METRIC_SPECS.items()})
