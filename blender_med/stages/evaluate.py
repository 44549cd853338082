"""Stage ``evaluate``: one answer per method and question, from the frozen candidates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.fusers.faithfulness import Embed
from blender_med.metrics import METRIC_SPECS
from blender_med.metrics.scoring import model_metrics
from blender_med.records import (
    Answer,
    Candidate,
    FusedAnswer,
    FusedChoice,
    Ranking,
    Route,
    Score,
)
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, MethodRecords, Reads, Run, Stage, Unit, chunks
from blender_med.stages.board_ranges import BoardRanges, Cursor, Kind
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
from blender_med.stages.groups import RangedParts
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board, check_method
from blender_med.stages.methods.board import Board, build_boards
from blender_med.stages.methods.gated import PROTOCOL
from blender_med.stages.methods.mbr import UTILITIES
from blender_med.stages.metric_models import MetricScorers
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
    """Answers of every method; a shard is a task's and protocol's for a range of the questions.

    Methods that learn do so from at most ``MOST_LEARNED`` questions of each data set and split.

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
        Reads("gate", ("question_id", "choice_index", "weights", "experts_read"), optional=True),
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
        """One unit per task, protocol and range of questions; the range is named where several."""
        generate, size = self.run.recipe.stage("generate"), shard_size or self.config.shard_size
        assert isinstance(generate, GenerateConfig)
        places = Counter((q.task, place // size) for place, q in enumerate(self.run.questions))
        ranges = chunks(len(self.run.questions), size)
        kinds: list[Kind] = [("long", "generative"), *(("mcq", p) for p in generate.mcq.protocols)]
        return [
            Unit(_unit_name(kind, own if len(ranges) > 1 else None), places[kind[0], number])
            for kind in kinds
            for number, own in enumerate(ranges)
            if places[kind[0], number]
        ]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the answers of all methods, range by range and board by board."""
        boards = BoardRanges(self.run)
        by_kind: dict[Kind, list[Unit]] = defaultdict(list)
        for unit in units:
            by_kind[_kind(unit)].append(unit)
        try:
            for kind, own in by_kind.items():
                records = _RecordRanges(self.run, self._rankings, self._fusions, self._choices)
                for unit in own:
                    places = _places(unit, len(self.run.questions))
                    yield unit, self._answers(boards.boards(kind, places), records.take(places))
                    advance(unit.size)
                records.finish()
        finally:
            self._scorers.unload()

    def _answers(self, boards: Sequence[Board], records: _Records) -> list[Answer]:
        settings, answers = method_settings(self.run), list[Answer]()
        for board in boards:
            own = answer_board(
                board, settings, self.config.methods, *records, learned_from=self._rankings
            )
            answers += self._judged(board, list(own), records.fusions)
        return answers

    def _judged(
        self, board: Board, answers: list[Answer], fusions: Mapping[str, Sequence[FusedAnswer]]
    ) -> list[Answer]:
        """The answers, with scores and support of new texts."""
        if board.task != "long" or not any(map(is_new, answers)):
            return answers
        questions = {question.id: question for question in board.questions}
        if model_metrics(self._score.metrics):
            self._scorers.references = self._references
        answers = with_scores(answers, questions, self._score.metrics, self._scorers)
        if self._checks is None:
            return answers
        fused = chain.from_iterable(fusions.values())
        known = {(f.method, f.question_id): f for f in fused}
        return with_support(answers, board, known, self._embed)

    @cached_property
    def _references(self) -> list[str]:
        return [q.reference for q in self.run.questions if q.reference]

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
    def _rankings(self) -> dict[str, MethodRecords[Ranking]]:
        return stored_rankings(self.run)


_SKIPPED = 2048  # questions that are passed over at a time


class _Records(NamedTuple):
    """What the stages before have made of a range of questions, by method; routes by question."""

    rankings: Mapping[str, Sequence[Ranking]]
    fusions: Mapping[str, Sequence[FusedAnswer]]
    choices: Mapping[str, Sequence[FusedChoice]]
    routes: Mapping[str, Route]


class _RecordRanges:
    """Reads them range by range, forward."""

    def __init__(
        self,
        run: Run,
        rankings: Mapping[str, MethodRecords[Ranking]],
        fusions: Mapping[str, MethodRecords[FusedAnswer]],
        choices: Mapping[str, MethodRecords[FusedChoice]],
    ) -> None:
        self._questions, self._place = run.questions, 0
        self._rankings: dict[str, Cursor[Any]] = _cursors(rankings)
        self._fusions: dict[str, Cursor[Any]] = _cursors(fusions)
        self._choices: dict[str, Cursor[Any]] = _cursors(choices)
        routed = run.recipe.stands_before("route", Evaluate.name)
        self._routes = RangedParts(run.stage_folder("route"), Route) if routed else None

    def take(self, own: range) -> _Records:
        """Those of the questions at the places ``own``, which follow those taken before."""
        self._skip(own.start)
        ids = self._ids(own)
        self._place = own.stop
        routes = self._routes.records(own) if self._routes else ()
        return _Records(
            {name: cursor.take(ids) for name, cursor in self._rankings.items()},
            {name: cursor.take(ids) for name, cursor in self._fusions.items()},
            {name: cursor.take(ids) for name, cursor in self._choices.items()},
            {route.question_id: route for route in routes if route.question_id in ids},
        )

    def finish(self) -> None:
        """Check that the records stand in the order of the questions, to their end.

        Raises:
            DataError: They do not, so some may have been left out.
        """
        self._skip(len(self._questions))
        for cursor in self._cursors:
            cursor.check_end()

    def _skip(self, place: int) -> None:
        for skipped in chunks(place - self._place, _SKIPPED):
            ids = self._ids(range(self._place + skipped.start, self._place + skipped.stop))
            for cursor in self._cursors:
                cursor.take(ids)
        self._place = max(place, self._place)

    def _ids(self, own: range) -> set[str]:
        return {question.id for question in self._questions[own.start : own.stop]}

    @property
    def _cursors(self) -> list[Cursor[Any]]:
        return [
            *self._rankings.values(), *self._fusions.values(), *self._choices.values(),
        ]  # fmt: skip


def _cursors(records: Mapping[str, Iterable[Any]]) -> dict[str, Cursor[Any]]:
    return {name: Cursor(own, f"method {name}") for name, own in records.items()}


def _unit_name(kind: Kind, own: range | None) -> str:
    name = "-".join(kind)
    return name if own is None else f"{name}-{own.start:07d}-{own.stop:07d}"


def _kind(unit: Unit) -> Kind:
    task, protocol = unit.name.split("-")[:2]
    return (
        "mcq" if task == "mcq" else "long",
        "lm_eval" if protocol == "lm_eval" else "generative",
    )


def _places(unit: Unit, count: int) -> range:
    """Places of the questions of a unit; all where its name does not say."""
    numbers = unit.name.split("-")[2:]
    return range(int(numbers[0]), int(numbers[1])) if numbers else range(count)


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
