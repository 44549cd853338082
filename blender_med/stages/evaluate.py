"""Stage ``evaluate``: one answer per method and question, from the frozen candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS
from blender_med.records import Answer, Candidate, Score
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit
from blender_med.stages.config import EvaluateConfig, GenerateConfig, RankConfig, ScoreConfig
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board, check_method
from blender_med.stages.methods.board import Board, build_boards
from blender_med.stages.methods.mbr import UTILITIES
from blender_med.stages.rank import stored_rankings
from blender_med.store.shards import read_parts


def method_settings(run: Run) -> MethodSettings:
    """Settings of the methods of a run."""
    config = run.recipe.stage("evaluate")
    assert isinstance(config, EvaluateConfig)
    return MethodSettings(
        seed=run.recipe.seed,
        primary_long=config.primary_long,
        primary_mcq=config.primary_mcq,
        mbr_utility=config.mbr_utility,
    )


def read_boards(run: Run) -> list[Board]:
    """The candidates and scores of a run, sorted by data set, task and protocol."""
    candidates = read_parts(run.stage_folder("generate"), Candidate)
    scores = read_parts(run.stage_folder("score"), Score)
    return build_boards(run.questions, candidates, scores)


class Evaluate(Stage):
    """Answers of every method; one shard for each task and protocol."""

    name = "evaluate"
    reads = (
        Reads("prepare", ("id", "split", "task", "answer_index")),
        Reads("generate", ("question_id", "expert", "sample", "protocol", "choice_index", "text")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
        Reads(
            "rank",
            ("question_id", "method", "candidates", "scores", "ranks", "protocol"),
            optional=True,
        ),
    )
    writes = Answer
    config: EvaluateConfig

    def __init__(self, config: EvaluateConfig, run: Run) -> None:
        super().__init__(config, run)
        score, rank = run.recipe.stage("score"), run.recipe.stage("rank")
        metrics = score.metrics if isinstance(score, ScoreConfig) else ()
        rankers = rank.methods if isinstance(rank, RankConfig) else ()
        experts = [expert.name for expert in run.experts]
        for method in config.methods or ():
            check_method(
                method, experts=experts, metrics=metrics, rankers=rankers, key="evaluate.methods"
            )
        _check_metric("primary_long", config.primary_long, metrics, "long")
        _check_metric("primary_mcq", config.primary_mcq, metrics, "mcq")
        _check_metric("mbr_utility", config.mbr_utility, UTILITIES, "long")

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per task and protocol that the questions have."""
        generate = self.run.recipe.stage("generate")
        assert isinstance(generate, GenerateConfig)
        tasks = Counter(question.task for question in self.run.questions)
        units = [Unit("long-generative", tasks["long"])]
        units += [Unit(f"mcq-{protocol}", tasks["mcq"]) for protocol in generate.mcq.protocols]
        return [unit for unit in units if unit.size]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the answers of all methods, board by board."""
        settings, rankings = method_settings(self.run), stored_rankings(self.run)
        for unit in units:
            boards = [b for b in self._boards if f"{b.task}-{b.protocol}" == unit.name]
            found = (answer_board(b, settings, self.config.methods, rankings) for b in boards)
            yield unit, list(chain.from_iterable(found))
            advance(unit.size)

    @cached_property
    def _boards(self) -> list[Board]:
        return read_boards(self.run)


def _check_metric(key: str, name: str, known: Any, task: str) -> None:
    fitting = [m for m in known if METRIC_SPECS[m].task == task and METRIC_SPECS[m].directed]
    # A run without that task's metrics scores no such question; the stage says so if it meets one.
    if fitting and name not in fitting:
        problem = "no such scored metric for this task"
        fix = suggestion(name, fitting)
        raise ConfigError(problem, key=f"evaluate.{key}", value=name, fix=fix)
