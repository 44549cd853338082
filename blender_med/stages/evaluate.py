"""Stage ``evaluate``: one answer per method and question, from the frozen candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.fusers.faithfulness import Embed
from blender_med.metrics import METRIC_SPECS
from blender_med.records import Answer, Candidate, FusedAnswer, FusedChoice, Score
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, MethodRecords, Reads, Run, Stage, Unit
from blender_med.stages.combining import combining_methods, routed_methods
from blender_med.stages.config import (
    EvaluateConfig,
    FaithfulnessConfig,
    GenerateConfig,
    ScoreConfig,
)
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.fusing.judging import (
    answer_scores,
    is_new,
    sentence_embedder,
    with_scores,
    with_support,
)
from blender_med.stages.gate import stored_choices
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board, check_method
from blender_med.stages.methods.board import Board, build_boards
from blender_med.stages.methods.gated import PROTOCOL
from blender_med.stages.methods.mbr import UTILITIES
from blender_med.stages.metric_models import MetricScorers
from blender_med.stages.rank import stored_rankings
from blender_med.stages.route import stored_routes
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
        combining=combining_methods(run.recipe),
    )


def read_boards(run: Run, answers: Iterable[Answer] = ()) -> list[Board]:
    """The candidates and scores of a run, sorted by data set, task and protocol.

    Args:
        run: The run.
        answers: Answers whose scores are kept too, where they have any.
    """
    candidates = read_parts(run.stage_folder("generate"), Candidate)
    scores = read_parts(run.stage_folder("score"), Score)
    return build_boards(run.questions, candidates, chain(scores, answer_scores(answers)))


class Evaluate(Stage):
    """Answers of every method; one shard for each task and protocol.

    Texts that are no candidate are scored here, with the metrics and models of stage score, and
    checked for what they rest on.
    """

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
        Reads("fuse", ("question_id", "method", "text", "candidate", "shown"), optional=True),
        Reads("gate", ("question_id", "method", "choice_index", "weights"), optional=True),
        Reads("route", ("question_id", "experts", "seconds"), optional=True),
    )
    writes = Answer
    config: EvaluateConfig

    def __init__(self, config: EvaluateConfig, run: Run) -> None:
        super().__init__(config, run)
        score = run.recipe.stage("score")
        self._score = score if isinstance(score, ScoreConfig) else ScoreConfig(metrics=())
        metrics = self._score.metrics
        experts = [expert.name for expert in run.experts]
        others = [*stored_rankings(run), *self._fusions, *self._choices]
        others += routed_methods(run.recipe)
        _check_protocol(run, self._choices)
        for method in config.methods or ():
            check_method(
                method, experts=experts, metrics=metrics, others=others, key="evaluate.methods"
            )
        _check_metric("primary_long", config.primary_long, metrics, "long")
        _check_metric("primary_mcq", config.primary_mcq, metrics, "mcq")
        _check_metric("mbr_utility", config.mbr_utility, UTILITIES, "long")

    def identity(self) -> dict[str, Any]:
        """Adds the weights of the sentence encoder; without fusers nothing of it matters."""
        identity = super().identity()
        if self._checks is None:
            del identity["config"]["faithfulness"]
            return identity
        weights = weights_revision(self._checks.model, self._checks.revision)
        return identity | {"models": {"faithfulness": weights}}

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
        routes = stored_routes(self.run, self.name)
        try:
            for unit in units:
                answers: list[Answer] = []
                for board in self._boards:
                    if f"{board.task}-{board.protocol}" == unit.name:
                        methods = self.config.methods
                        own = answer_board(
                            board, settings, methods, rankings, self._fusions, self._choices, routes
                        )
                        answers += self._judged(board, list(own))
                yield unit, answers
                advance(unit.size)
        finally:
            self._scorers.unload()

    def _judged(self, board: Board, answers: list[Answer]) -> list[Answer]:
        """The answers, with scores and support of new texts."""
        if board.task != "long" or not any(map(is_new, answers)):
            return answers
        questions = {question.id: question for question in self.run.questions}
        self._scorers.references = [q.reference for q in questions.values() if q.reference]
        answers = with_scores(answers, questions, self._score.metrics, self._scorers)
        if self._checks is None:
            return answers
        fused = chain.from_iterable(self._fusions.values())
        fusions = {(f.method, f.question_id): f for f in fused}
        return with_support(answers, board, fusions, self._embed)

    @cached_property
    def _scorers(self) -> MetricScorers:
        return MetricScorers(self._score.metrics, self._score.models)

    @cached_property
    def _embed(self) -> Embed:
        return sentence_embedder(self._checks or FaithfulnessConfig())

    @property
    def _checks(self) -> FaithfulnessConfig | None:
        return self.config.faithfulness if self._fusions else None

    @cached_property
    def _fusions(self) -> dict[str, MethodRecords[FusedAnswer]]:
        return stored_fusions(self.run)

    @cached_property
    def _choices(self) -> dict[str, MethodRecords[FusedChoice]]:
        return stored_choices(self.run)

    @cached_property
    def _boards(self) -> list[Board]:
        return read_boards(self.run)


def _check_protocol(run: Run, choices: Iterable[str]) -> None:
    generate = run.recipe.stage("generate")
    protocols = generate.mcq.protocols if isinstance(generate, GenerateConfig) else (PROTOCOL,)
    if any(choices) and PROTOCOL not in protocols:
        problem = "the choices of stage gate are compared with answers of this protocol"
        fix = f"add {PROTOCOL} to 'mcq.protocols' of stage generate"
        raise ConfigError(problem, key="generate.mcq.protocols", value=list(protocols), fix=fix)


def _check_metric(key: str, name: str, known: Any, task: str) -> None:
    fitting = [m for m in known if METRIC_SPECS[m].task == task and METRIC_SPECS[m].directed]
    # A run without that task's metrics scores no such question; the stage says so if it meets one.
    if fitting and name not in fitting:
        problem = "no such scored metric for this task"
        fix = suggestion(name, fitting)
        raise ConfigError(problem, key=f"evaluate.{key}", value=name, fix=fix)
