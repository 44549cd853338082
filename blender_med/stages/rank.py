"""Stage ``rank``: every ranker orders the candidates of each question."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

from blender_med.config import result_fields
from blender_med.data.pairs import source_text
from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.metrics import METRIC_SPECS
from blender_med.rankers.base import RankedCandidates
from blender_med.rankers.config import (
    AppliedBM25,
    AppliedMean,
    ModelRanker,
    RankerToApply,
    TrainedRanker,
)
from blender_med.rankers.mean import mean_ranking
from blender_med.records import Candidate, Ranking, Task
from blender_med.registry import suggestion
from blender_med.stages.base import (
    MethodRecords,
    Reads,
    Run,
    Unit,
    method_units,
    unit_method,
    unit_range,
)
from blender_med.stages.config import RankConfig, TrainRankerConfig
from blender_med.stages.gate_config import ROUTE_METHOD
from blender_med.stages.groups import GeneratedCandidates, Group
from blender_med.stages.lanes import DividedStage, Lane, Share, Work
from blender_med.stages.methods import METHODS
from blender_med.store.shards import part_path, read_part
from blender_med.training.config import RankerJob

_TASKS: tuple[Task, ...] = ("mcq", "long")


class Rank(DividedStage):
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
            if ranker.method in (*METHODS, ROUTE_METHOD):
                fix = "give the ranker another 'name'"
                problem = "a method of another kind has this name"
                raise ConfigError(problem, key=f"{key}.name", value=ranker.method, fix=fix)
            ranker.check_models(key)
            _check_trained(ranker, _trained_jobs(run), key)

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
        size = shard_size or self.config.shard_size
        return [
            unit
            for ranker in self.config.rankers
            for unit in method_units(ranker.method, len(self._places(ranker)), size)
        ]

    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """One lane per ranker, so that one is in memory at a time."""
        found = []
        for ranker in self.config.rankers:
            own = tuple(unit for unit in units if unit_method(unit.name) == ranker.method)
            found += [Lane((ranker.method,), own, ranker_gpus(self.run, ranker))] if own else []
        return found

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """One ranker, loaded."""
        [ranker] = [r for r in self.config.rankers if r.method in serves]
        loaded = cache(lambda: load_ranker(self.run, ranker, self._candidates))
        places = self._places(ranker)
        if not isinstance(ranker, AppliedMean):
            loaded()

        def rank(unit: Unit, _: Share) -> list[Ranking]:
            known = self._known_mean(ranker, unit) if isinstance(ranker, AppliedMean) else None
            if known is not None:
                return known
            own = places[unit_range(unit.name)]
            groups = self._candidates.groups([self.run.questions[i] for i in own], own)
            return rank_groups(ranker.method, loaded(), groups, ranker.rank_settings())

        yield rank

    def _known_mean(self, ranker: AppliedMean, unit: Unit) -> list[Ranking] | None:
        """The mean of rankings that are stored already; None where one of them is not."""
        names = [unit.name.replace(ranker.method, part, 1) for part in ranker.of]
        paths = [part_path(self.folder, name) for name in names]
        if not all(path.is_file() for path in paths):
            return None
        parts = [list(read_part(path, Ranking)) for path in paths]
        kept = [[(own.question_id, own.protocol, own.candidates) for own in part] for part in parts]
        if any(other != kept[0] for other in kept):  # rankers of other tasks have other shards
            return None
        weights = ranker.weights or (1.0,) * len(parts)
        return [_mean_record(ranker.method, own, weights) for own in zip(*parts, strict=True)]

    def _places(self, ranker: RankerToApply) -> Sequence[int]:
        """Positions of the questions that a ranker ranks."""
        tasks, splits = ranked_tasks(self.run, ranker), self.config.splits
        return array(
            "q",
            (
                place
                for place, question in enumerate(self.run.questions)
                if question.task in tasks and (splits is None or question.split in splits)
            ),
        )

    @cached_property
    def _candidates(self) -> GeneratedCandidates:
        return GeneratedCandidates(self.run.stage_folder("generate"))


def ranker_gpus(run: Run, ranker: RankerToApply) -> int:
    """GPUs that a ranker computes on where there are any."""
    parts = _parts(run, ranker)
    return int(any(isinstance(part, ModelRanker) and part.device != "cpu" for part in parts))


def _parts(run: Run, ranker: RankerToApply) -> tuple[RankerToApply, ...]:
    stage = run.recipe.stage("rank")
    assert isinstance(stage, RankConfig)
    return stage.parts(ranker)


def load_ranker(run: Run, ranker: RankerToApply, candidates: Iterable[Candidate]) -> Any:
    """A ranker of the run's stage rank, ready to rank.

    Args:
        run: The run, in which it may have been trained.
        ranker: Its recipe.
        candidates: Of the whole run; their texts are the collection of BM25. Read by it alone.

    Raises:
        ConfigError: There is no such model or device.
        DataError: Weights are missing or damaged.
    """
    if isinstance(ranker, AppliedMean):
        parts = _parts(run, ranker)
        loaded = [(load_ranker(run, part, candidates), part.rank_settings()) for part in parts]
        return ranker.load(parts=loaded)
    if isinstance(ranker, AppliedBM25):
        return ranker.load(corpus=(candidate.text for candidate in candidates))
    trained = ranker.trained if isinstance(ranker, TrainedRanker) else None
    return ranker.load(run.stage_folder("train-ranker") / trained if trained else None)


def ranked_tasks(run: Run, ranker: RankerToApply) -> tuple[Task, ...]:
    """Tasks whose questions a ranker ranks: those of its labels where this run trains it."""
    if isinstance(ranker, AppliedMean):
        own = [ranked_tasks(run, part) for part in _parts(run, ranker)]
        return tuple(task for task in _TASKS if all(task in tasks for tasks in own))
    trained = ranker.trained if isinstance(ranker, TrainedRanker) else None
    if trained is None:
        return _TASKS
    labels = _trained_jobs(run)[trained].labels
    return tuple({METRIC_SPECS[label].task for label in labels})


def _trained_jobs(run: Run) -> dict[str, RankerJob]:
    stage = run.recipe.stage("train-ranker")
    return {j.name: j for j in stage.jobs} if isinstance(stage, TrainRankerConfig) else {}


def stored_rankings(run: Run) -> dict[str, MethodRecords[Ranking]]:
    """Rankings of a run by ranker, in the order of the recipe; {} without stage rank."""
    config = run.recipe.stage("rank")
    methods = config.methods if isinstance(config, RankConfig) else ()
    folder = run.stage_folder("rank")
    return {method: MethodRecords(folder, method, Ranking) for method in methods}


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


def _mean_record(method: str, parts: Sequence[Ranking], weights: Sequence[float]) -> Ranking:
    ranked = [
        RankedCandidates(own.scores, own.ranks, None, own.comparisons, own.tokens) for own in parts
    ]
    mean = mean_ranking(ranked, weights)
    return replace(
        parts[0],
        method=method,
        scores=mean.scores,
        ranks=mean.ranks,
        pairwise_logits=None,
        comparisons=mean.comparisons,
        tokens=mean.tokens,
        seconds=sum(own.seconds for own in parts),
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
