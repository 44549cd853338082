"""Stage ``report``: compare the methods, write the tables and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from blender_med.fusers.applied import AppliedEmbedding
from blender_med.records import Answer
from blender_med.reports.console import summary_tables
from blender_med.reports.tables import write_tables
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit
from blender_med.stages.comparison import (
    Comparison,
    Diagnosis,
    FusionRow,
    GatingRow,
    RankingRow,
    Resampling,
    compare,
    diagnose,
    fusion_rows,
    gating_rows,
    ranking_rows,
    rival_rows,
    with_certainty,
)
from blender_med.stages.comparison.headroom import Tops
from blender_med.stages.config import FuseConfig, ReportConfig, TrainRankerConfig
from blender_med.stages.evaluate import method_settings, read_boards
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.gate import fused_choices
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import Board
from blender_med.stages.rank import stored_rankings
from blender_med.store.files import write_text
from blender_med.store.shards import read_parts

_SUMMARY = "summary.txt"
_PAGE = "index.html"
_SUMMARY_WIDTH = 110


class Report(Stage):
    """The CSV tables, the page, and the short table that is printed at the end of a run."""

    name = "report"
    reads = (
        Reads("prepare", ("id", "split", "task", "question", "reference", "meta")),
        Reads("generate", ("question_id", "expert", "sample", "text")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
        Reads("evaluate", ("question_id", "method", "text", "choice_index", "candidate")),
        Reads("rank", ("question_id", "method", "candidates", "scores", "protocol"), optional=True),
        Reads("fuse", ("question_id", "method", "outcome", "top", "kept", "margin"), optional=True),
        Reads("gate", ("question_id", "method", "fuser", "weights", "seed_choices"), optional=True),
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
            rankings = list(with_certainty(self._rankings(boards, settings), comparison))
            resampling = Resampling(self.config.resamples, settings.seed)
            fusions = list(fusion_rows(comparison, stored_fusions(self.run), resampling))
            diagnosis = diagnose(comparison, resampling, first_candidates(self.run))
            gating = list(gating_rows(comparison, fused_choices(self.run)))
            rivals = list(rival_rows(comparison, self.config.rivals, resampling))
            headroom = diagnosis.headroom
            write_tables(self.folder, comparison, rankings, fusions, headroom, gating, rivals)
            write_text(self.folder / _SUMMARY, _rendered(comparison))
            self._write_page(comparison, diagnosis, rankings, fusions, gating)
            advance(unit.size)
            yield unit, []

    def _write_page(
        self,
        comparison: Comparison,
        diagnosis: Diagnosis,
        rankings: Sequence[RankingRow],
        fusions: Sequence[FusionRow],
        gating: Sequence[GatingRow],
    ) -> None:
        """The page, unless the recipe does without it: drawing the figures takes seconds."""
        if not self.config.page:
            (self.folder / _PAGE).unlink(missing_ok=True)  # left over from an earlier report
            return
        from blender_med.reports.page.build import write_page

        orders = stored_rankings(self.run)
        write_page(self.run, comparison, diagnosis, rankings, fusions, gating, orders)

    def _rankings(self, boards: Sequence[Board], settings: MethodSettings) -> Iterator[RankingRow]:
        """Rankers against the primary metrics and the labels of those trained in this run."""
        training = self.run.recipe.stage("train-ranker")
        jobs = training.jobs if isinstance(training, TrainRankerConfig) else ()
        labels = [settings.primary_long, settings.primary_mcq, *(m for j in jobs for m in j.labels)]
        resampling = Resampling(self.config.resamples, settings.seed)
        rankings = stored_rankings(self.run)
        return ranking_rows(boards, rankings, list(dict.fromkeys(labels)), resampling)

    def extra_files(self) -> Mapping[str, Path]:
        """The tables and the page."""
        pages = (*self.folder.glob(_PAGE), *self.folder.glob("questions/*.js"))
        found = (*self.folder.glob("*.csv"), *pages, self.folder / _SUMMARY)
        return {str(path.relative_to(self.folder)): path for path in found}


def first_candidates(run: Run) -> Tops:
    """The candidate that each fuser started from, by question and protocol.

    Embedding fusers start from none; their guards from the one that they hold the text against.
    """
    fuse = run.recipe.stage("fuse")
    fusers = fuse.fusers if isinstance(fuse, FuseConfig) else ()
    from_states = {own.method for own in fusers if isinstance(own, AppliedEmbedding)}
    return {
        method: {(fused.question_id, fused.protocol): fused.top for fused in own}
        for method, own in stored_fusions(run).items()
        if method not in from_states
    }


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
