"""Stage ``rank``: every ranker orders the candidates of each question."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from blender_med.config import result_fields
from blender_med.data.pairs import source_text
from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.metrics import METRIC_SPECS
from blender_med.rankers.config import AppliedBM25, RankerToApply, TrainedRanker
from blender_med.records import Candidate, Question, Ranking, Task
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit, chunks
from blender_med.stages.config import RankConfig, TrainRankerConfig
from blender_med.stages.methods import METHODS
from blender_med.store.shards import part_paths, read_part, read_parts
from blender_med.training.config import RankerJob

_TASKS: tuple[Task, ...] = ("mcq", "long")


class Group(NamedTuple):
    """Candidates of one question under one protocol, in the order of the experts."""

    question: Question
    candidates: tuple[Candidate, ...]


class Rank(Stage):
    """Rankings of every ranker; a shard is one ranker's for a range of questions.

    A ranker trained in this run ranks the questions of its labels' task only. Candidates of
    different protocols are never ranked together.
    """

    name = "rank"
    reads = (
        Reads("prepare", ("id", "split", "task", "question", "context", "options")),
        Reads("generate", ("question_id", "expert", "sample", "text", "protocol")),
        Reads("train-ranker", (), optional=True),
    )
    writes = Ranking
    config: RankConfig

    def __init__(self, config: RankConfig, run: Run) -> None:
        super().__init__(config, run)
        for position, ranker in enumerate(config.rankers):
            key = f"rank.rankers.{position}"
            if ranker.method in METHODS:
                fix = "give the ranker another 'name'"
                problem = "a method of another kind has this name"
                raise ConfigError(problem, key=f"{key}.name", value=ranker.method, fix=fix)
            ranker.check_models(key)
            _check_trained(ranker, self._jobs, key)

    def identity(self) -> dict[str, Any]:
        """Adds the identity of every model that was not trained in this run."""
        models = {
            f"{ranker.method}.{key}": weights_revision(source, revision)
            for ranker in self.config.rankers
            for key, (source, revision) in ranker.models().items()
        }
        return {"config": result_fields(self.config), "models": models}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per ranker and range of the questions it ranks."""
        return [
            Unit(f"{ranker.method}-{r.start:07d}-{r.stop:07d}", len(r))
            for ranker in self.config.rankers
            for r in chunks(len(self._questions(ranker)), shard_size or self.config.shard_size)
        ]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the rankings of each unit; one ranker is in memory at a time."""
        for ranker in self.config.rankers:
            own = [unit for unit in units if unit_method(unit.name) == ranker.method]
            if own:
                yield from self._rank(ranker, own, advance)

    def _rank(
        self, ranker: RankerToApply, units: Sequence[Unit], advance: Advance
    ) -> Iterator[tuple[Unit, list[Ranking]]]:
        loaded = self._loaded(ranker)
        questions = self._questions(ranker)
        for unit in units:
            start, stop = (int(number) for number in unit.name.rsplit("-", 2)[1:])
            groups = [g for q in questions[start:stop] for g in self._groups.get(q.id, ())]
            yield unit, rank_groups(ranker.method, loaded, groups, ranker.rank_settings())
            advance(unit.size)

    def _loaded(self, ranker: RankerToApply) -> Any:
        if not isinstance(ranker, AppliedBM25):
            return ranker.load(self._folder(ranker))
        groups = (group for own in self._groups.values() for group in own)
        return ranker.load(corpus=(c.text for group in groups for c in group.candidates))

    def _folder(self, ranker: RankerToApply) -> Path | None:
        trained = ranker.trained if isinstance(ranker, TrainedRanker) else None
        return self.run.stage_folder("train-ranker") / trained if trained else None

    def _questions(self, ranker: RankerToApply) -> list[Question]:
        tasks, splits = self._tasks(ranker), self.config.splits
        return [
            question
            for question in self.run.questions
            if question.task in tasks and (splits is None or question.split in splits)
        ]

    def _tasks(self, ranker: RankerToApply) -> tuple[Task, ...]:
        trained = ranker.trained if isinstance(ranker, TrainedRanker) else None
        if trained is None:
            return _TASKS
        return tuple({METRIC_SPECS[label].task for label in self._jobs[trained].labels})

    @cached_property
    def _jobs(self) -> dict[str, RankerJob]:
        stage = self.run.recipe.stage("train-ranker")
        return {j.name: j for j in stage.jobs} if isinstance(stage, TrainRankerConfig) else {}

    @cached_property
    def _groups(self) -> dict[str, list[Group]]:
        candidates = read_parts(self.run.stage_folder("generate"), Candidate)
        return candidate_groups(self.run.questions, candidates)


class StoredRankings(Iterable[Ranking]):
    """The rankings of one ranker, read shard by shard each time they are iterated over."""

    def __init__(self, folder: Path, method: str) -> None:
        self._folder, self._method = folder, method

    def __iter__(self) -> Iterator[Ranking]:
        for path in part_paths(self._folder):
            if unit_method(path.stem.removeprefix("part-")) == self._method:
                yield from read_part(path, Ranking)


def stored_rankings(run: Run) -> dict[str, StoredRankings]:
    """Rankings of a run by ranker, in the order of the recipe; {} without stage rank."""
    config = run.recipe.stage("rank")
    methods = config.methods if isinstance(config, RankConfig) else ()
    return {method: StoredRankings(run.stage_folder("rank"), method) for method in methods}


def unit_method(unit: str) -> str:
    """Ranker of a unit of this stage."""
    return unit.rsplit("-", 2)[0]


def candidate_groups(
    questions: Sequence[Question], candidates: Iterator[Candidate]
) -> dict[str, list[Group]]:
    """Groups of each question by protocol; experts in order of first appearance, then samples."""
    experts: dict[str, int] = {}
    found: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        experts.setdefault(candidate.expert, len(experts))
        found[candidate.question_id, candidate.protocol].append(candidate)
    known = {question.id: question for question in questions}
    groups: dict[str, list[Group]] = defaultdict(list)
    for (question_id, _), own in found.items():
        own.sort(key=lambda candidate: (experts[candidate.expert], candidate.sample))
        groups[question_id].append(Group(known[question_id], tuple(own)))
    return groups


def rank_groups(
    method: str, ranker: Any, groups: Sequence[Group], settings: dict[str, Any]
) -> list[Ranking]:
    """Rankings of groups of candidates in their order; the wall time is shared by tokens read.

    Args:
        method: Name of the ranker.
        ranker: Loaded.
        groups: Each with at least one candidate; no group gives no ranking.
        settings: Keyword arguments of the ranker's ``rank``.
    """
    started = time.perf_counter()
    rankings = ranker.rank(
        [source_text(group.question) for group in groups],
        [[candidate.text for candidate in group.candidates] for group in groups],
        **settings,
    )
    seconds = time.perf_counter() - started
    weights = [ranked.tokens + 1 for ranked in rankings]
    return [
        _record(method, group, ranked, seconds * weight / sum(weights))
        for group, ranked, weight in zip(groups, rankings, weights, strict=True)
    ]


def _record(method: str, group: Group, ranked: Any, seconds: float) -> Ranking:
    logits = ranked.pairwise_logits
    return Ranking(
        question_id=group.question.id,
        method=method,
        candidates=tuple(candidate.key for candidate in group.candidates),
        scores=ranked.scores,
        ranks=ranked.ranks,
        pairwise_logits=None if logits is None else tuple(map(tuple, logits.tolist())),
        comparisons=ranked.comparisons,
        tokens=ranked.tokens,
        seconds=seconds,
        protocol=group.candidates[0].protocol,
    )


def _check_trained(ranker: RankerToApply, jobs: dict[str, RankerJob], key: str) -> None:
    if not isinstance(ranker, TrainedRanker) or ranker.trained is None:
        return
    if ranker.trained not in jobs:
        fix = suggestion(ranker.trained, jobs) if jobs else "add stage train-ranker before rank"
        problem = "stage train-ranker of this pipeline trains no such ranker"
        raise ConfigError(problem, key=f"{key}.trained", value=ranker.trained, fix=fix)
    trained_type = jobs[ranker.trained].ranker.type
    if trained_type != ranker.type:
        problem = f"ranker '{ranker.trained}' is trained as another type"
        fix = f"write type: {trained_type}"
        raise ConfigError(problem, key=f"{key}.type", value=ranker.type, fix=fix)
