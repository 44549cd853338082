"""Stage ``gate``: every embedding fuser chooses an option of each question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blender_med.data.embedded import StateExample, unanswered
from blender_med.errors import ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.fusers.hidden_states import QUESTION_ENCODER
from blender_med.rankers.config import check_source
from blender_med.records import FusedChoice, HiddenState, Question
from blender_med.registry import suggestion
from blender_med.stages.base import (
    Advance,
    MethodRecords,
    Reads,
    Run,
    Stage,
    Unit,
    method_units,
    unit_method,
    unit_range,
)
from blender_med.stages.config import EmbedConfig
from blender_med.stages.gate_config import (
    ROUTED,
    AppliedEmbeddingFuser,
    GateStageConfig,
    TrainGateConfig,
)
from blender_med.stages.methods import METHODS
from blender_med.store.shards import part_path, read_part, read_parts

if TYPE_CHECKING:
    from blender_med.fusers.embedding import EmbeddingFuser
    from blender_med.fusers.state_batches import Chosen, StateBatches

Done = tuple[Unit, list[FusedChoice]]
_COSTS = 2  # raised when what a choice costs is counted otherwise


class Cost(NamedTuple):
    """What the states of one question by one expert, or by the encoder, took."""

    tokens: int = 0
    seconds: float = 0.0


class Gate(Stage):
    """Chosen options; a shard is one fuser's for a range of the multiple-choice questions."""

    name = "gate"
    reads = (
        Reads("prepare", ("id", "split", "task", "options", "answer_index")),
        Reads("embed", ("question_id", "expert", "text", "row", "tokens", "seconds")),
        Reads("train-gate", (), optional=True),
    )
    writes = FusedChoice
    config: GateStageConfig

    def __init__(self, config: GateStageConfig, run: Run) -> None:
        super().__init__(config, run)
        for position, fuser in enumerate(config.fusers):
            self._check(fuser, f"gate.fusers.{position}", config.fusers[:position])

    def identity(self) -> dict[str, Any]:
        """Adds the weights of every fuser that is not trained in this run."""
        models = {
            fuser.method: weights_revision(fuser.model)
            for fuser in self.config.fusers
            if fuser.model is not None
        }
        return super().identity() | {"models": models, "costs": _COSTS}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per fuser and range of questions; those it is chosen among come before."""
        size, count = shard_size or self.config.shard_size, len(self._questions)
        return [unit for fuser in self.config.fusers
                for unit in method_units(fuser.method, count, size)]  # fmt: skip

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[Done]:
        """Yield the choices of each unit, fuser by fuser."""
        for position, fuser in enumerate(self.config.fusers):
            own = [unit for unit in units if unit_method(unit.name) == fuser.method]
            made = self._best if fuser.among else self._mean if fuser.mean_of else self._chosen
            try:
                for unit, choices in made(fuser, own):
                    yield unit, choices
                    advance(unit.size)
            except ConfigError as error:
                raise error.under(f"gate.fusers.{position}") from error

    def expected_rows(self) -> int:
        """A choice of every fuser for every question."""
        return len(self._questions) * len(self.config.fusers)

    def _chosen(self, fuser: AppliedEmbeddingFuser, units: Sequence[Unit]) -> Iterator[Done]:
        from blender_med.fusers.state_batches import choose

        loaded = [self._load(folder) for folder in self._folders(fuser)] if units else []
        for unit in units:
            examples = [unanswered(q) for q in self._questions[unit_range(unit.name)]]
            of_seeds = [list(choose(one, self._batches(one), examples)) for one in loaded]
            experts = tuple(loaded[0].config.experts)
            is_routed = any(one.config.gate_input == "question" for one in loaded)
            # A gate that reads the experts has all of them read the question.
            read = experts if any(one.config.gate_input == "experts" for one in loaded) else ()
            rows = zip(examples, *of_seeds, strict=True)
            yield (
                unit,
                [
                    self._record(fuser, experts, e, chosen, read, is_routed=is_routed)
                    for e, *chosen in rows
                ],
            )

    def _batches(self, fuser: EmbeddingFuser) -> StateBatches:
        from blender_med.fusers.state_batches import StateBatches

        return StateBatches(self._store, fuser.config, sparse=self._is_sparse)

    def _record(
        self,
        fuser: AppliedEmbeddingFuser,
        experts: tuple[str, ...],
        example: StateExample,
        chosen: Sequence[Chosen],
        read: Collection[str] = (),
        *,
        is_routed: bool = True,
    ) -> FusedChoice:
        """The mean of the fusers, with what the experts cost that one of them reads.

        Args:
            fuser: Whose choice this is.
            experts: In the order of the weights.
            example: The question.
            chosen: By each fuser, or each seed.
            read: Experts whose states are read though they may have no weight.
            is_routed: Whether the question was encoded for the gate.
        """
        probabilities = np.mean([c.probabilities for c in chosen], axis=0)
        weights = tuple(np.mean([c.weights for c in chosen], axis=0).tolist())
        spent = self._costs.get(example.question_id, {})
        means = self._mean_costs if self._is_sparse else {}
        full = [spent.get(name, means.get(name, Cost())) for name in experts]
        weighed = zip(experts, weights, strict=True)
        own = tuple(name for name, weight in weighed if weight > 0 or name in read)
        used = _total([c for c, name in zip(full, experts, strict=True) if name in own])
        spared = _total([c for c, name in zip(full, experts, strict=True) if name not in own])
        routing = spent.get(QUESTION_ENCODER, Cost()) if is_routed else Cost()
        return FusedChoice(
            question_id=example.question_id,
            method=fuser.method,
            fuser=fuser.method,
            choice_index=int(probabilities.argmax()),
            probabilities=tuple(probabilities.tolist()),
            experts=experts,
            weights=weights,
            experts_read=own,
            seed_choices=tuple(int(c.probabilities.argmax()) for c in chosen),
            tokens=used.tokens,
            seconds=used.seconds + routing.seconds,
            routing_seconds=routing.seconds,
            saved_tokens=spared.tokens,
            saved_seconds=spared.seconds,
        )

    def _best(self, fuser: AppliedEmbeddingFuser, units: Sequence[Unit]) -> Iterator[Done]:
        """The choices of the fuser that is best on dev, under the name of this one."""
        if not units:
            return
        stored = {name: self._stored(name) for name in fuser.among or ()}
        values = {name: self._on_dev(own, fuser.choose_by) for name, own in stored.items()}
        best = max(values, key=lambda name: values[name])
        by = fuser.choose_by.replace("_", "-")
        self.run.note(f"{fuser.method}: {best}, with {by} {values[best]:.3f} on dev")
        for unit in units:
            ids = {q.id for q in self._questions[unit_range(unit.name)]}
            own = [c for c in stored[best] if c.question_id in ids]
            yield unit, [replace(choice, method=fuser.method) for choice in own]

    def _stored(self, method: str) -> MethodRecords[FusedChoice]:
        return MethodRecords(self.folder, method, FusedChoice)

    def _on_dev(self, choices: MethodRecords[FusedChoice], by: str) -> float:
        """Accuracy, or mean log-likelihood of the right option in nats; higher is better."""
        from blender_med.fusers.state_batches import choice_value

        gold = {q.id: q.answer_index for q in self._questions
                if q.split == "dev" and q.answer_index is not None}  # fmt: skip
        known = [(c, gold[c.question_id]) for c in choices if c.question_id in gold]
        if not known:
            fix = "give the data a dev split, and leave it in 'splits' of the stages embed and gate"
            raise ConfigError("no dev question to choose by", key="among", fix=fix)
        return float(np.mean([choice_value(c.probabilities, right, by) for c, right in known]))

    def _mean(self, fuser: AppliedEmbeddingFuser, units: Sequence[Unit]) -> Iterator[Done]:
        """The mean of the probabilities of fusers whose shards stand before."""
        for unit in units:
            examples = [unanswered(q) for q in self._questions[unit_range(unit.name)]]
            parts = [
                list(read_part(part_path(self.folder, unit.name.replace(fuser.method, name, 1)),
                               FusedChoice))
                for name in fuser.sources
            ]  # fmt: skip
            experts = tuple(dict.fromkeys(e for part in parts for c in part[:1] for e in c.experts))
            rows = zip(examples, *parts, strict=True)
            yield unit, [self._mean_of(fuser, experts, e, choices) for e, *choices in rows]

    def _mean_of(
        self,
        fuser: AppliedEmbeddingFuser,
        experts: tuple[str, ...],
        example: StateExample,
        choices: Sequence[FusedChoice],
    ) -> FusedChoice:
        from blender_med.fusers.state_batches import Chosen

        chosen = [Chosen(np.array(c.probabilities), _weights_of(c, experts)) for c in choices]
        read = {name for choice in choices for name in choice.experts_read}
        is_routed = any(choice.routing_seconds > 0 for choice in choices)
        made = self._record(fuser, experts, example, chosen, read, is_routed=is_routed)
        return replace(made, seed_choices=())

    def _load(self, folder: str | Path) -> EmbeddingFuser:
        from blender_med.fusers.embedding import EmbeddingFuser
        from blender_med.fusers.embedding_checkpoint import check_experts

        fuser = EmbeddingFuser.from_pretrained(folder)
        if fuser.config.decoder_config is not None:
            fix = "name a fuser with head: {type: choice}"
            raise ConfigError("this fuser writes texts", key="model", value=str(folder), fix=fix)
        known = [name for name in self._store.experts if name != QUESTION_ENCODER]
        own = dict(zip(fuser.config.experts, fuser.config.widths, strict=True))
        absent = own if self._is_sparse else {}  # an expert that was never chosen has no states
        check_experts(fuser.config, absent | {n: self._store.width(n) for n in own if n in known})
        return fuser

    @property
    def _is_sparse(self) -> bool:
        return self.run.recipe.stands_before("route", "embed")

    def _folders(self, fuser: AppliedEmbeddingFuser) -> list[str | Path]:
        if fuser.model is not None:
            return [fuser.model]
        jobs = _trainings(self.run).jobs_of(str(fuser.trained))
        return [self.run.stage_folder("train-gate") / job.name for job in jobs]

    @cached_property
    def _store(self) -> Any:
        from blender_med.fusers.hidden_states import StateStore

        return StateStore(self.run.stage_folder("embed"))

    @cached_property
    def _costs(self) -> Mapping[str, Mapping[str, Cost]]:
        """By question and expert, over the texts of the options."""
        costs: dict[str, dict[str, Cost]] = defaultdict(dict)
        for row in read_parts(self.run.stage_folder("embed"), HiddenState):
            if row.expert == QUESTION_ENCODER or row.text.startswith("option:"):
                own = costs[row.question_id]
                tokens, seconds = own.get(row.expert, Cost())
                own[row.expert] = Cost(tokens + row.tokens, seconds + row.seconds)
        return costs

    @cached_property
    def _mean_costs(self) -> Mapping[str, Cost]:
        """Of each expert over the questions that it read: what it costs where it was spared."""
        found: dict[str, list[Cost]] = defaultdict(list)
        for own in self._costs.values():
            for name, cost in own.items():
                found[name].append(cost)
        return {name: _mean_cost(costs) for name, costs in found.items()}

    @cached_property
    def _questions(self) -> list[Question]:
        embed = self.run.recipe.stage("embed")
        embedded = embed.splits if isinstance(embed, EmbedConfig) else None
        return [
            question
            for question in self.run.questions
            if question.task == "mcq"
            and all(own is None or question.split in own for own in (self.config.splits, embedded))
        ]

    def _check(
        self, fuser: AppliedEmbeddingFuser, key: str, before: Sequence[AppliedEmbeddingFuser]
    ) -> None:
        others = [getattr(self.run.recipe.stage(name), "methods", ()) for name in ("rank", "fuse")]
        for method in fuser.methods:
            if method in METHODS or any(method in own for own in others):
                fix = "give the fuser another 'name'"
                problem = "a method of another kind has this name"
                raise ConfigError(problem, key=f"{key}.name", value=method, fix=fix)
        if fuser.model is not None:
            check_source(fuser.model, f"{key}.model")
        elif fuser.trained is not None:
            config = _trainings(self.run)
            if not config.jobs_of(fuser.trained):
                fix = suggestion(fuser.trained, [job.name for job in config.fusers])
                problem = "stage train-gate of this pipeline trains no such fuser"
                raise ConfigError(problem, key=f"{key}.trained", value=fuser.trained, fix=fix)
        known = [own.method for own in before]
        for name in fuser.sources:
            if name not in known:
                fix = suggestion(name, known) + "; it must stand before"
                problem, own = "stage gate has no such fuser", "among" if fuser.among else "mean_of"
                raise ConfigError(problem, key=f"{key}.{own}", value=name, fix=fix)


def _weights_of(choice: FusedChoice, experts: Sequence[str]) -> NDArray[np.float64]:
    """Weights of a choice in the order of ``experts``; 0 for those that its fuser does not read."""
    own = dict(zip(choice.experts, choice.weights, strict=True))
    return np.array([own.get(name, 0.0) for name in experts])


def _total(costs: Sequence[Cost]) -> Cost:
    return Cost(sum(c.tokens for c in costs), sum(c.seconds for c in costs))


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    total = _total(costs)
    return Cost(round(total.tokens / len(costs)), total.seconds / len(costs))


def _trainings(run: Run) -> TrainGateConfig:
    config = run.recipe.stage("train-gate")
    if not isinstance(config, TrainGateConfig):
        fix = "add stage train-gate before gate, or name a trained fuser with 'model'"
        raise ConfigError("this pipeline trains no embedding fuser", key="gate.fusers", fix=fix)
    return config


def fused_choices(run: Run) -> dict[str, MethodRecords[FusedChoice]]:
    """Choices of a run by method, without the routed methods."""
    return {m: own for m, own in stored_choices(run).items() if not m.endswith(ROUTED)}


def stored_choices(run: Run) -> dict[str, MethodRecords[FusedChoice]]:
    """Choices of a run by method, in the order of the recipe; {} without stage gate.

    A routed method has the choices of its fuser, whose weights say where it is routed to.
    """
    config = run.recipe.stage("gate")
    folder = run.stage_folder("gate")
    methods = config.methods if isinstance(config, GateStageConfig) else ()
    return {
        method: MethodRecords(folder, method.removesuffix(ROUTED), FusedChoice)
        for method in methods
    }
