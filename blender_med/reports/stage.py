"""Stage ``report``: compare the methods and write the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from blender_med.records import Answer
from blender_med.reports.console import summary_tables
from blender_med.reports.tables import write_tables
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit
from blender_med.stages.comparison import (
    Comparison,
    RankingRow,
    Resampling,
    compare,
    fusion_rows,
    ranking_rows,
    with_certainty,
)
from blender_med.stages.config import ReportConfig, TrainRankerConfig
from blender_med.stages.evaluate import method_settings, read_boards
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import Board
from blender_med.stages.rank import stored_rankings
from blender_med.store.files import write_text
from blender_med.store.shards import read_parts

_SUMMARY = "summary.txt"
_SUMMARY_WIDTH = 110


class Report(Stage):
    """The CSV tables, and the short table that is printed at the end of a run."""

    name = "report"
    reads = (
        Reads("prepare", ("id", "split", "task", "question", "reference", "meta")),
        Reads("generate", ("question_id", "expert", "sample", "text")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
        Reads("evaluate", ("question_id", "method", "text", "choice_index", "candidate")),
        Reads("rank", ("question_id", "method", "candidates", "scores", "protocol"), optional=True),
        Reads("fuse", ("question_id", "method", "outcome", "top", "kept", "margin"), optional=True),
    )
    config: ReportConfig

    def plan(self, shard_size: int | None) -> list[Unit]:
        """All tables are one unit."""
        return [Unit("tables", 1)]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Write the tables; there are no shards."""
        for unit in units:
            folder, settings = self.run.stage_folder("evaluate"), method_settings(self.run)
            boards = read_boards(self.run, read_parts(folder, Answer))
            answers = read_parts(folder, Answer)
            comparison = compare(boards, answers, settings, resamples=self.config.resamples)
            rankings = with_certainty(self._rankings(boards, settings), comparison)
            fusions = fusion_rows(comparison, stored_fusions(self.run))
            write_tables(self.folder, comparison, list(rankings), list(fusions))
            write_text(self.folder / _SUMMARY, _rendered(comparison))
            advance(unit.size)
            yield unit, []

    def _rankings(self, boards: Sequence[Board], settings: MethodSettings) -> Iterator[RankingRow]:
        """Rankers against the primary metrics and the labels of those trained in this run."""
        training = self.run.recipe.stage("train-ranker")
        jobs = training.jobs if isinstance(training, TrainRankerConfig) else ()
        labels = [settings.primary_long, settings.primary_mcq, *(m for j in jobs for m in j.labels)]
        resampling = Resampling(self.config.resamples, settings.seed)
        rankings = stored_rankings(self.run)
        return ranking_rows(boards, rankings, list(dict.fromkeys(labels)), resampling)

    def extra_files(self) -> Mapping[str, Path]:
        """The tables."""
        return {path.name: path for path in (*self.folder.glob("*.csv"), self.folder / _SUMMARY)}


def _rendered(comparison: Comparison) -> str:
    from rich.console import Console

    text = StringIO()
    console = Console(file=text, width=_SUMMARY_WIDTH, color_system=None)
    for table in summary_tables(comparison.methods):
        console.print(table)
    return text.getvalue()


def summary(run: Run) -> str | None:
    """The short table of a run, or None where no report was written."""
    file = run.stage_folder("report") / _SUMMARY
    return file.read_text(encoding="utf-8") if file.is_file() else None
