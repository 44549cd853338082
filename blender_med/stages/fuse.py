"""Stage ``fuse``: every fuser writes one answer from the best candidates of each question."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.revision import weights_revision
from blender_med.fusers.applied import GUARDED, AppliedAggregate, AppliedGenFuser, WritingFuser
from blender_med.fusers.applied import FuserToApply as ToApply
from blender_med.fusers.base import Fuser, Fusion
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import aggregator_turns, fusion_turns
from blender_med.rankers.config import AppliedMean, RankerToApply, check_source
from blender_med.records import FusedAnswer
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
from blender_med.stages.config import FuseConfig, RankConfig, TrainFuserConfig
from blender_med.stages.fusing.experts import (
    ExpertEngine,
    asked_expert,
    expert_formatter,
    prompt_room,
)
from blender_med.stages.fusing.guard import Contest, guarded_answers
from blender_med.stages.fusing.lineup import (
    Lineup,
    Order,
    Origin,
    fuse_lineups,
    fused_answers,
    line_up,
    orders,
)
from blender_med.stages.fusing.served import check_served, served_genfuser
from blender_med.stages.groups import GeneratedCandidates, Group
from blender_med.stages.lanes import DividedStage, Lane, Share, Work, engine_gpus
from blender_med.stages.methods import METHODS
from blender_med.stages.rank import (
    load_ranker,
    ranked_tasks,
    ranker_gpus,
    stored_rankings,
)
from blender_med.store.shards import part_path, read_part
from blender_med.training.fuser_config import FuserJob


class Role(NamedTuple):
    """A method of the stage: a fuser, or its guard."""

    fuser: ToApply
    position: int
    is_guard: bool

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.fuser.method + (GUARDED if self.is_guard else "")

    @property
    def key(self) -> str:
        """Key of the fuser in the recipe, for messages."""
        return f"fuse.fusers.{self.position}"


class Fuse(DividedStage):
    """Fused answers; a shard is one method's for a range of the long-form questions.

    A guard reads the shards of its fuser and generates nothing. Multiple-choice questions are
    passed over: there is no text to write. So are questions that the fuser's ranker has not
    ranked.
    """

    name = "fuse"
    reads = (
        Reads("prepare", ("id", "split", "task", "question", "context")),
        Reads("generate", ("question_id", "expert", "sample", "text", "protocol")),
        Reads("rank", ("question_id", "method", "candidates", "ranks"), optional=True),
        Reads("train-fuser", (), optional=True),
    )
    writes = FusedAnswer
    config: FuseConfig

    def __init__(self, config: FuseConfig, run: Run) -> None:
        super().__init__(config, run)
        for role in self._roles:
            self._check(role)

    def identity(self) -> dict[str, Any]:
        """Adds the weights of every model that is neither an expert's nor trained in this run."""
        models = {
            fuser.method: weights_revision(fuser.model, fuser.revision)
            for fuser in self.config.fusers
            if isinstance(fuser, AppliedGenFuser) and fuser.model is not None
        }
        return super().identity() | {"models": models}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per method and range of questions; a guard's stand behind its fuser's."""
        size, count = shard_size or self.config.shard_size, len(self._places)
        return [unit for role in self._roles for unit in method_units(role.method, count, size)]

    def expected_rows(self) -> int:
        """Answers of every method, where all questions are ranked."""
        return len(self._places) * len(self._roles)

    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """One lane per method: one model in memory at a time, and a guard after its fuser."""
        found = []
        for role in self._roles:
            own = tuple(unit for unit in units if unit_method(unit.name) == role.method)
            found += [Lane((role.method,), own, self._gpus(role))] if own else []
        return found

    def _gpus(self, role: Role) -> int:
        fuser = role.fuser
        if role.is_guard:
            return ranker_gpus(self.run, self._rankers[str(self._ranker(role))])
        if fuser.asked_expert is not None:
            return engine_gpus(self._experts[fuser.asked_expert])
        return int(isinstance(fuser, AppliedGenFuser) and fuser.device != "cpu")

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """The model of one method, loaded."""
        [role] = [role for role in self._roles if role.method in serves]
        with (self._guard if role.is_guard else self._fuser)(role) as work:
            yield work

    @contextmanager
    def _fuser(self, role: Role) -> Iterator[Work]:
        fuser, ranker = role.fuser, self._ranker(role)
        order = self._orders(ranker)
        origin = Origin(fuser.method, ranker, fuser.asked_expert)

        def fuse(unit: Unit, share: Share) -> list[FusedAnswer]:
            lineups = [
                line_up(group, _placed(order, group.question.id), fuser.top_k)
                for group in self._unit_groups(unit, order)
            ]
            started = time.perf_counter()
            fusions = _fusions(role, loaded, lineups, self._decoding(fuser), share)
            return fused_answers(origin, lineups, fusions, time.perf_counter() - started)

        with self._loaded(role) as loaded:
            yield fuse

    @contextmanager
    def _guard(self, role: Role) -> Iterator[Work]:
        name = str(self._ranker(role))
        recipe, order = self._rankers[name], self._orders(name)
        ranker = load_ranker(self.run, recipe, self._candidates)

        def guard(unit: Unit, _: Share) -> list[FusedAnswer]:
            groups = {group.question.id: group for group in self._unit_groups(unit, order)}
            plain = unit.name.replace(role.method, role.fuser.method, 1)
            fused = read_part(part_path(self.folder, plain), FusedAnswer)
            contests = [_contest(answer, groups[answer.question_id], order) for answer in fused]
            return guarded_answers(ranker, recipe.rank_settings(), contests, name)

        yield guard

    def _unit_groups(self, unit: Unit, order: dict[str, Order] | None) -> list[Group]:
        own = self._places[unit_range(unit.name)]
        asked = [(place, self.run.questions[place]) for place in own]
        known = [(place, q) for place, q in asked if order is None or q.id in order]
        return self._candidates.groups([q for _, q in known], [place for place, _ in known])

    @contextmanager
    def _loaded(self, role: Role) -> Iterator[Fuser]:
        """The fuser of a role; its engine stops at the end."""
        from blender_med.fusers.baselines import Concatenation

        fuser = role.fuser
        opened: AbstractContextManager[Fuser] = nullcontext(Concatenation())
        if isinstance(fuser, WritingFuser) and fuser.asked_expert is not None:
            opened = self._expert_fuser(fuser, role.key)
        elif isinstance(fuser, AppliedGenFuser) and fuser.engine == "vllm":
            opened = self._served_fuser(fuser, role.key)
        elif isinstance(fuser, AppliedGenFuser):
            opened = nullcontext(self._genfuser(fuser, role.key))
        with opened as loaded:
            yield loaded

    @contextmanager
    def _expert_fuser(self, fuser: WritingFuser, key: str) -> Iterator[Fuser]:
        from blender_med.fusers.baselines import TwoRounds
        from blender_med.fusers.genfuser import GenFuser

        config = self._experts[str(fuser.asked_expert)]
        wording = aggregator_turns if isinstance(fuser, AppliedAggregate) else fusion_turns
        formatter = expert_formatter(config, fuser, wording, key)
        with asked_expert(config, cache=self._cache, verbose=self.run.verbose) as expert:
            written = GenFuser(formatter, ExpertEngine(expert))
            two = isinstance(fuser, AppliedAggregate) and fuser.rounds == 2
            yield TwoRounds(written) if two else written

    def _genfuser(self, fuser: AppliedGenFuser, key: str) -> Fuser:
        from blender_med.fusers.genfuser import GenFuser

        try:
            return GenFuser.from_pretrained(
                self._source(fuser),
                dtype=fuser.dtype,
                device=fuser.device,
                max_length=fuser.max_length,
                candidate_maxlength=fuser.candidate_maxlength,
                batch_tokens=fuser.batch_tokens,
                revision=fuser.revision,
                allow_pickle=fuser.allow_pickle,
            )
        except BlenderMedError as error:
            raise error.under(key) from error

    @contextmanager
    def _served_fuser(self, fuser: AppliedGenFuser, key: str) -> Iterator[Fuser]:
        source, verbose = self._source(fuser), self.run.verbose
        served = served_genfuser(fuser, source, cache=self._cache, verbose=verbose)
        with ExitStack() as stack:
            try:
                loaded = stack.enter_context(served)
            except BlenderMedError as error:
                raise error.under(key) from error
            yield loaded

    def _source(self, fuser: AppliedGenFuser) -> str | Path:
        """Where the weights of a fuser are that no expert is."""
        if fuser.trained is not None:
            return self.run.stage_folder("train-fuser") / fuser.trained
        return str(fuser.model)

    def _origin(self, fuser: AppliedGenFuser) -> str:
        """The weights of a fuser, or those that it is trained from."""
        if fuser.trained is not None:
            return trained_fusers(self.run)[fuser.trained].fuser.backbone
        return str(fuser.model)

    @property
    def _cache(self) -> bool:
        return bool(getattr(self.run.recipe.stage("generate"), "cache", True))

    def _decoding(self, fuser: ToApply) -> Decoding | None:
        """Decoding of a fuser, with the run's seed added to its own."""
        if not isinstance(fuser, WritingFuser):
            return None
        own = fuser.decoding
        fields = own.model_dump(include=own.model_fields_set | {"seed"})
        return Decoding(**fields | {"seed": own.seed + self.run.recipe.seed})

    @cached_property
    def _places(self) -> Sequence[int]:
        """Positions of the questions that are fused."""
        splits = self._splits
        return array(
            "q",
            (
                place
                for place, question in enumerate(self.run.questions)
                if question.task == "long" and (splits is None or question.split in splits)
            ),
        )

    @property
    def _splits(self) -> tuple[str, ...] | None:
        rank = self.run.recipe.stage("rank")
        ranked = rank.splits if isinstance(rank, RankConfig) else None
        return self.config.splits or ranked

    @cached_property
    def _candidates(self) -> GeneratedCandidates:
        return GeneratedCandidates(self.run.stage_folder("generate"))

    def _orders(self, ranker: str | None) -> dict[str, Order] | None:
        return None if ranker is None else orders(stored_rankings(self.run)[ranker])

    def _ranker(self, role: Role) -> str | None:
        """Ranker that orders the candidates of a fuser, or that of its guard; None for none."""
        named = (role.fuser.guard_ranker if role.is_guard else None) or role.fuser.ranker
        return named or next(iter(self._rankers), None)

    @cached_property
    def _roles(self) -> list[Role]:
        return [
            Role(fuser, position, is_guard)
            for position, fuser in enumerate(self.config.fusers)
            for is_guard in ((False, True) if fuser.guard else (False,))
        ]

    @cached_property
    def _rankers(self) -> dict[str, RankerToApply]:
        rank = self.run.recipe.stage("rank")
        rankers = rank.rankers if isinstance(rank, RankConfig) else ()
        return {ranker.method: ranker for ranker in rankers}

    @cached_property
    def _experts(self) -> dict[str, ExpertConfig]:
        return {expert.name: expert for expert in self.run.experts}

    def _check(self, role: Role) -> None:
        self._check_method(role)
        self._check_ranker(role)
        if role.is_guard:
            return
        fuser, key = role.fuser, role.key
        if isinstance(fuser, WritingFuser) and fuser.asked_expert is not None:
            _check_known("expert", fuser.asked_expert, list(self._experts), f"{key}.expert")
            prompt_room(self._experts[fuser.asked_expert], fuser, key)
        elif isinstance(fuser, AppliedGenFuser) and fuser.trained is not None:
            _check_known("fuser", fuser.trained, list(trained_fusers(self.run)), f"{key}.trained")
        elif isinstance(fuser, AppliedGenFuser):
            check_source(str(fuser.model), f"{key}.model")
        if isinstance(fuser, AppliedGenFuser) and fuser.engine == "vllm":
            check_served(self._origin(fuser), key)

    def _check_method(self, role: Role) -> None:
        if role.method in METHODS or role.method in self._rankers:
            fix = "give the fuser another 'name'"
            problem = "a method of another kind has this name"
            raise ConfigError(problem, key=f"{role.key}.name", value=role.method, fix=fix)

    def _check_ranker(self, role: Role) -> None:
        name = self._ranker(role)
        key = f"{role.key}.{'guard_ranker' if role.is_guard else 'ranker'}"
        if name is None:
            if role.is_guard:
                fix = "add stage rank before fuse, or leave the guard out"
                raise ConfigError("a guard needs a ranker", key=f"{role.key}.guard", fix=fix)
            return
        _check_known("ranker", name, list(self._rankers), key)
        if role.is_guard and isinstance(self._rankers[name], AppliedMean):
            problem = "of two texts a mean of rankers only says how many rankers prefer which"
            fix = "name one of its rankers with guard_ranker"
            raise ConfigError(problem, key=key, value=name, fix=fix)
        if "long" not in ranked_tasks(self.run, self._rankers[name]):
            fix = "name a ranker with a label of long answers"
            raise ConfigError("this ranker ranks no long answers", key=key, value=name, fix=fix)
        rank = self.run.recipe.stage("rank")
        ranked = rank.splits if isinstance(rank, RankConfig) else None
        for split in self.config.splits or ():
            if ranked is not None and split not in ranked:
                fix = "add it to 'splits' of stage rank"
                raise ConfigError("this split is not ranked", key="fuse.splits", value=split,
                                  fix=fix)  # fmt: skip


def _contest(fused: FusedAnswer, group: Group, order: dict[str, Order] | None) -> Contest:
    lineup = line_up(group, _placed(order, fused.question_id), 1)
    return Contest(group.question, lineup.top, fused)


def _placed(order: dict[str, Order] | None, question_id: str) -> Order | None:
    return None if order is None else order[question_id]


def _fusions(
    role: Role, fuser: Fuser, lineups: Sequence[Lineup], decoding: Decoding | None, share: Share
) -> list[Fusion]:
    try:
        return fuse_lineups(
            fuser, lineups, role.fuser.top_k, decoding, lambda n: share(n / len(lineups))
        )
    except ConfigError as error:  # prompts that do not fit are only known here
        raise error.under(role.key) from error


def trained_fusers(run: Run) -> dict[str, FuserJob]:
    """Training jobs of a run's fusers, by name."""
    stage = run.recipe.stage("train-fuser")
    return {job.name: job for job in stage.jobs} if isinstance(stage, TrainFuserConfig) else {}


def _check_known(kind: str, name: str, known: Sequence[str], key: str) -> None:
    if name not in known:
        fix = suggestion(name, known) if known else f"name a {kind} that comes before stage fuse"
        raise ConfigError(f"this run has no such {kind}", key=key, value=name, fix=fix)


def stored_fusions(run: Run) -> dict[str, MethodRecords[FusedAnswer]]:
    """Fused answers of a run by method, in the order of the recipe; {} without stage fuse."""
    config = run.recipe.stage("fuse")
    methods = config.methods if isinstance(config, FuseConfig) else ()
    folder = run.stage_folder("fuse")
    return {method: MethodRecords(folder, method, FusedAnswer) for method in methods}
