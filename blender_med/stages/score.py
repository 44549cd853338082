"""Stage ``score``: every metric on every candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from blender_med.metrics.scoring import model_metrics, score_candidates
from blender_med.records import Candidate, Question, Score
from blender_med.stages.base import Reads, Run, Unit, unit_range
from blender_med.stages.config import ScoreConfig
from blender_med.stages.generate import question_range
from blender_med.stages.lanes import DividedStage, Lane, Share, Work
from blender_med.stages.metric_models import MetricScorers
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import part_path, read_part


class ScoreStage(DividedStage):
    """Scores against the references; one shard for each range of questions.

    The candidates of all experts for the same questions are scored together, so that a model
    reads each reference once.
    """

    name = "score"
    reads = (
        Reads("prepare", ("id", "task", "reference", "answer_index")),
        Reads("generate", ("question_id", "expert", "sample", "text", "choice_index")),
    )
    writes = Score
    config: ScoreConfig

    def __init__(self, config: ScoreConfig, run: Run) -> None:
        super().__init__(config, run)
        self._scorers = MetricScorers(config.metrics, config.models)

    def identity(self) -> dict[str, Any]:
        """Adds settings and weights of the models that the metrics need, and of no others."""
        identity = super().identity()
        del identity["config"]["models"]
        models = self._scorers.identity()
        return identity | ({"models": models} if models else {})

    def plan(self, shard_size: int | None) -> list[Unit]:
        """The ranges of questions of ``generate``, in its order."""
        sizes: dict[str, int] = {}
        for name, rows in self._generated.items():
            sizes[question_range(name)] = sizes.get(question_range(name), 0) + rows
        return [Unit(name, rows) for name, rows in sizes.items()]

    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """One lane: every worker scores with all metrics."""
        has_model = bool(model_metrics(self.config.metrics))
        return [Lane((self.name,), tuple(units), gpus=int(has_model))] if units else []

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """The metrics; their models are loaded when they are first needed."""
        if model_metrics(self.config.metrics):
            self._scorers.references = [q.reference for q in self.run.questions if q.reference]
        shards: dict[str, list[str]] = defaultdict(list)
        for name in self._generated:
            shards[question_range(name)].append(name)
        try:
            yield lambda unit, share: self._scored(unit, shards[unit.name], share)
        finally:
            self._scorers.unload()

    def _scored(self, unit: Unit, shards: Sequence[str], share: Share) -> list[Score]:
        folder = self.run.stage_folder("generate")
        candidates = (c for name in shards for c in read_part(part_path(folder, name), Candidate))
        metrics, load = self.config.metrics, self._scorers.load
        return list(score_candidates(self._questions(unit), candidates, metrics, load, share))

    @property
    def _generated(self) -> dict[str, int]:
        """Rows of each shard of candidates."""
        manifest = read_manifest(self.run.stage_folder("generate"))
        return manifest.parts if manifest else {}

    def _questions(self, unit: Unit) -> dict[str, Question]:
        return {q.id: q for q in self.run.questions[unit_range(f"-{unit.name}")]}
