"""Stage ``score``: every metric on every candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from blender_med.metrics.scoring import score_candidates
from blender_med.records import Candidate, Score
from blender_med.stages.base import Advance, Reads, Stage, Unit
from blender_med.stages.config import ScoreConfig
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import part_path, read_part


class ScoreStage(Stage):
    """Scores against the references; one shard for each shard of candidates."""

    name = "score"
    reads = (
        Reads("prepare", ("id", "task", "reference", "answer_index")),
        Reads("generate", ("question_id", "expert", "sample", "text", "choice_index")),
    )
    writes = Score
    config: ScoreConfig

    def plan(self, shard_size: int | None) -> list[Unit]:
        """The units of ``generate``, in the same order."""
        manifest = read_manifest(self.run.stage_folder("generate"))
        return [Unit(name, rows) for name, rows in (manifest.parts if manifest else {}).items()]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the scores of each shard of candidates."""
        folder = self.run.stage_folder("generate")
        for unit in units:
            candidates = read_part(part_path(folder, unit.name), Candidate)
            scores = score_candidates(self._questions, candidates, self.config.metrics)
            yield unit, list(scores)
            advance(unit.size)

    @cached_property
    def _questions(self) -> dict[str, Any]:
        return {question.id: question for question in self.run.questions}
