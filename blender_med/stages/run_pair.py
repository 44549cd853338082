"""Two finished runs, read for their comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS
from blender_med.records import Answer
from blender_med.stages.base import Run
from blender_med.stages.comparison import (
    AnswerRow,
    Comparison,
    DifferenceRow,
    Resampling,
    difference_rows,
)
from blender_med.stages.comparison.clean import Contamination
from blender_med.stages.comparison.outcomes import collect_outcomes
from blender_med.stages.config import EvaluateConfig, ReportConfig
from blender_med.stages.evaluate import method_settings, read_boards
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts

FIRST = "first:"


@dataclass(frozen=True)
class RunDifference:
    """Two runs and what differs between them.

    Attributes:
        first: The run compared with.
        second: The run that is judged.
        rows: The differences.
        left_out: Metrics that the runs measure with different models.
        primary: The metric that decides, by task.
    """

    first: Comparison
    second: Comparison
    rows: list[DifferenceRow]
    left_out: tuple[str, ...]
    primary: Mapping[str, str]

    def answers(self) -> Iterator[AnswerRow]:
        """The common questions with the candidates and the answers of both runs.

        Candidates of the first run are marked as ``first:KEY``, its methods as ``first:METHOD``.
        """
        known = {(row.block, row.question_id): row for row in self.first.answers()}
        for row in self.second.answers():
            other = known.get((row.block, row.question_id))
            if other is not None:
                yield _joined(other, row)


def _joined(first: AnswerRow, second: AnswerRow) -> AnswerRow:
    candidates = tuple(replace(c, key=f"{FIRST}{c.key}") for c in first.candidates)
    answers = tuple(
        replace(a, method=f"{FIRST}{a.method}", candidate=a.candidate and f"{FIRST}{a.candidate}")
        for a in first.answers
    )
    return replace(
        second,
        candidates=(*second.candidates, *candidates),
        answers=(*second.answers, *answers),
    )


def compare_runs(first: Run, second: Run) -> RunDifference:
    """Paired differences of two runs, ``second`` less ``first``.

    Seed and number of resamples are those of the second run.

    Raises:
        ConfigError: A run has not been evaluated.
        DataError: The runs have no question in common, or a question differs.
    """
    report = second.recipe.stage("report")
    resamples = report.resamples if isinstance(report, ReportConfig) else ReportConfig().resamples
    resampling = Resampling(resamples, second.recipe.seed)
    left_out = _measured_differently(first, second)
    own, other = _evaluated(first), _evaluated(second)
    rows = list(difference_rows(own, other, resampling, left_out))
    primary = {"long": other.settings.primary_long, "mcq": "accuracy"}
    return RunDifference(own, other, rows, left_out, primary)


def _evaluated(run: Run) -> Comparison:
    """The outcomes of a run, without the figures that are not needed here."""
    if not isinstance(run.recipe.stage("evaluate"), EvaluateConfig):
        fix = "add 'evaluate' to its stages and run it"
        raise ConfigError("the run has no stage evaluate", file=run.folder, fix=fix)
    if read_manifest(run.stage_folder("evaluate")) is None:
        fix = "finish it: run its recipe again"
        raise ConfigError("the run has not been evaluated yet", file=run.folder, fix=fix)
    folder = run.stage_folder("evaluate")
    boards = read_boards(run, read_parts(folder, Answer))
    outcomes = [own for own in collect_outcomes(boards, read_parts(folder, Answer)) if own]
    return Comparison([], [], [], [], outcomes, method_settings(run), Contamination())


def _measured_differently(first: Run, second: Run) -> tuple[str, ...]:
    """Metrics whose model has other weights or settings in the other run."""
    own, other = _metric_models(first), _metric_models(second)
    differing = {name for name in own.keys() & other.keys() if own[name] != other[name]}
    return tuple(m for m, spec in METRIC_SPECS.items() if spec.model in differing)


def _metric_models(run: Run) -> dict[str, object]:
    manifest = read_manifest(run.stage_folder("score"))
    return dict(manifest.identity.get("models") or {}) if manifest else {}
