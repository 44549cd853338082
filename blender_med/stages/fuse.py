"""Stage ``fuse``: every fuser writes one answer from the best candidates of each question."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.revision import weights_revision
from blender_med.fusers.applied import (
    AppliedAggregate,
    AppliedEmbedding,
    AppliedGenFuser,
    WritingFuser,
)
from blender_med.fusers.applied import FuserToApply as ToApply
from blender_med.fusers.base import Fuser, Fusion
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import aggregator_turns, fusion_turns
from blender_med.records import FusedAnswer
from blender_med.stages.base import (
    MethodRecords,
    Reads,
    Run,
    Unit,
    method_units,
    unit_method,
    unit_range,
)
from blender_med.stages.config import FuseConfig, RankConfig
from blender_med.stages.fusing.experts import (
    ExpertEngine,
    asked_expert,
    expert_formatter,
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
from blender_med.stages.fusing.roles import (
    Role,
    check_role,
    ranker_of,
    rankers_of,
    roles_of,
)
from blender_med.stages.fusing.served import served_genfuser
from blender_med.stages.groups import GeneratedCandidates, Group
from blender_med.stages.lanes import DividedStage, Lane, Share, Work, engine_gpus
from blender_med.stages.rank import (
    load_ranker,
    ranker_gpus,
    stored_rankings,
)
from blender_med.store.shards import part_path, read_part

_STATE_READS = (
    Reads("embed", ("question_id", "expert", "text", "row", "tokens", "seconds")),
    Reads("train-gate", (), optional=True),
)


class Fuse(DividedStage):
    """Fused answers; a shard is one method's for a range of the long-form questions.

    A guard reads the shards of its fuser and generates nothing. Multiple-choice questions are
    passed over: there is no text to write. So are questions that the fuser's ranker has not
    ranked.
    """

    name = "fuse"
    reads: tuple[Reads, ...] = (
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
            check_role(role, run, config.splits)
        if any(isinstance(fuser, AppliedEmbedding) for fuser in config.fusers):
            self.reads = (*type(self).reads, *_STATE_READS)

    def identity(self) -> dict[str, Any]:
        """Adds the weights of every model that is neither an expert's nor trained in this run."""
        models = {
            fuser.method: weights_revision(fuser.model, getattr(fuser, "revision", None))
            for fuser in self.config.fusers
            if isinstance(fuser, AppliedGenFuser | AppliedEmbedding) and fuser.model is not None
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
            return ranker_gpus(self.run, rankers_of(self.run)[str(ranker_of(role, self.run))])
        if fuser.asked_expert is not None:
            return engine_gpus(self._experts[fuser.asked_expert])
        return int(isinstance(fuser, AppliedGenFuser | AppliedEmbedding) and fuser.device != "cpu")

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """The model of one method, loaded."""
        [role] = [role for role in self._roles if role.method in serves]
        by_states = isinstance(role.fuser, AppliedEmbedding)
        own = self._guard if role.is_guard else self._writer if by_states else self._fuser
        with own(role) as work:
            yield work

    @contextmanager
    def _fuser(self, role: Role) -> Iterator[Work]:
        fuser, ranker = role.fuser, ranker_of(role, self.run)
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
    def _writer(self, role: Role) -> Iterator[Work]:
        """An embedding fuser, which reads the states of stage embed."""
        from blender_med.fusers.hidden_states import StateStore
        from blender_med.stages.fusing.states import StateWriter, load_writer

        fuser: Any = role.fuser
        ranker, embed = ranker_of(role, self.run), self.run.stage_folder("embed")
        order, origin = self._orders(ranker), Origin(fuser.method, ranker, None)
        store, sparse = StateStore(embed), self.run.recipe.stands_before("route", "embed")
        source = fuser.model or self.run.stage_folder("train-gate") / str(fuser.trained)
        try:
            loaded = load_writer(source, store, sparse=sparse, device=fuser.device)
        except BlenderMedError as error:
            raise error.under(role.key) from error
        writer = StateWriter(loaded, embed, store, sparse=sparse, batch_size=fuser.batch_size)

        def write(unit: Unit, share: Share) -> list[FusedAnswer]:
            lineups = [
                line_up(group, _placed(order, group.question.id), 1)
                for group in self._unit_groups(unit, order)
            ]
            decoding = self._decoding(fuser) or Decoding()
            made = writer.answers(origin, lineups, decoding, lambda n: share(n / len(lineups)))
            return list(made)

        yield write

    @contextmanager
    def _guard(self, role: Role) -> Iterator[Work]:
        name = str(ranker_of(role, self.run))
        recipe, order = rankers_of(self.run)[name], self._orders(name)
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

    @property
    def _cache(self) -> bool:
        return bool(getattr(self.run.recipe.stage("generate"), "cache", True))

    def _decoding(self, fuser: ToApply) -> Decoding | None:
        """Decoding of a fuser, with the run's seed added to its own."""
        if not isinstance(fuser, WritingFuser | AppliedEmbedding):
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

    @cached_property
    def _roles(self) -> list[Role]:
        return roles_of(self.config)

    @cached_property
    def _experts(self) -> dict[str, ExpertConfig]:
        return {expert.name: expert for expert in self.run.experts}


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


def stored_fusions(run: Run) -> dict[str, MethodRecords[FusedAnswer]]:
    """Fused answers of a run by method, in the order of the recipe; {} without stage fuse."""
    config = run.recipe.stage("fuse")
    methods = config.methods if isinstance(config, FuseConfig) else ()
    folder = run.stage_folder("fuse")
    return {method: MethodRecords(folder, method, FusedAnswer) for method in methods}
