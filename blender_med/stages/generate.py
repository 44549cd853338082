"""Stage ``generate``: every expert answers every question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from queue import Queue
from typing import Any, TypeVar

from blender_med.config import result_fields
from blender_med.errors import ConfigError
from blender_med.experts.cached import CachedExpert, cache_identity
from blender_med.experts.config import ExpertConfig
from blender_med.experts.devices import device_slots
from blender_med.experts.engines import engine_choice, engine_key, on_cuda, resolved_dtype
from blender_med.experts.loading import load_experts
from blender_med.experts.revision import model_revision
from blender_med.prompts.parse import PARSER
from blender_med.records import Candidate, Question
from blender_med.stages.answering import answer_questions
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit, chunks
from blender_med.stages.config import GenerateConfig
from blender_med.store.cache import GenerationCache

Done = tuple[Unit, list[Candidate]]
T = TypeVar("T")


class Generate(Stage):
    """Candidates of every expert; experts that share an engine are served by one process."""

    name = "generate"
    reads = (
        Reads("prepare", ("id", "task", "question", "context", "options")),
        Reads("train-expert", (), optional=True),
    )
    writes = Candidate
    config: GenerateConfig

    def __init__(self, config: GenerateConfig, run: Run) -> None:
        super().__init__(config, run)
        for expert in run.experts:
            check_sampling(expert, config)

    def identity(self) -> dict[str, Any]:
        """Adds each expert's settings, weights and engine; the parser where it reads choices."""
        experts = [
            {
                "config": result_fields(expert),
                "revision": model_revision(expert),
                "engine": engine_choice(expert)[0],
                "dtype": resolved_dtype(expert, cuda=on_cuda()),
            }
            for expert in self.run.experts
        ]
        parser = {"parser": PARSER} if "generative" in self.config.mcq.protocols else {}
        return super().identity() | {"experts": experts} | parser

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per expert and range of questions."""
        ranges = chunks(len(self.run.questions), shard_size or self.config.shard_size)
        return [
            Unit(f"{expert.name}-{r.start:07d}-{r.stop:07d}", len(r))
            for expert in self.run.experts
            for r in ranges
        ]

    def expected_rows(self) -> int:
        """Candidates: samples of every expert for every question."""
        protocols = self.config.mcq.protocols
        generated = self.config.mcq.samples if "generative" in protocols else 0
        per_mcq = ("lm_eval" in protocols) + generated
        per_long = self.config.long.samples
        tasks = [question.task for question in self.run.questions]
        total = tasks.count("mcq") * per_mcq + tasks.count("long") * per_long
        return total * len(self.run.experts)

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[Done]:
        """Yield the candidates of each unit; engines run side by side, one per device slot."""
        groups = self._groups(units)
        parallel = max((e.tensor_parallel_size for e in self.run.experts), default=1)
        slots = device_slots(self.config.devices, parallel)[: len(groups)]
        if len(slots) <= 1:
            for group in groups:
                yield from self._serve(group, advance, slots[0] if slots else None)
        else:
            tasks = [partial(self._serve, group, advance) for group in groups]
            yield from side_by_side(tasks, slots)

    def _groups(self, units: Sequence[Unit]) -> list[list[tuple[ExpertConfig, list[Unit]]]]:
        """Experts with work to do, grouped by the engine that serves them."""
        groups: dict[str, list[tuple[ExpertConfig, list[Unit]]]] = {}
        for expert in self.run.experts:
            own = [unit for unit in units if unit.name.rsplit("-", 2)[0] == expert.name]
            if own:
                groups.setdefault(engine_key(expert), []).append((expert, own))
        return list(groups.values())

    def _serve(
        self, group: list[tuple[ExpertConfig, list[Unit]]], advance: Advance, slot: str | None
    ) -> Iterator[Done]:
        configs = [config for config, _ in group]
        experts = load_experts(configs, verbose=self.run.verbose, device=slot)
        try:
            for expert, (config, units) in zip(experts, group, strict=True):
                engine, reason = engine_choice(config)
                self.run.note(f"{config.name}: engine {engine} ({reason})")
                dtype = resolved_dtype(config, cuda=on_cuda(slot))
                with self._cache(cache_identity(expert, engine, dtype)) as cache:
                    cached = CachedExpert(expert, cache)
                    for unit in units:
                        yield unit, self._answer(cached, unit)
                        advance(unit.size)
        finally:
            for expert in experts:
                expert.close()

    def _cache(self, identity: str) -> AbstractContextManager[GenerationCache | None]:
        return closing(GenerationCache(identity)) if self.config.cache else nullcontext()

    def _answer(self, expert: CachedExpert, unit: Unit) -> list[Candidate]:
        start, stop = (int(number) for number in unit.name.rsplit("-", 2)[1:])
        questions: Sequence[Question] = self.run.questions[start:stop]
        return answer_questions(expert, questions, self.config, seed=self.run.recipe.seed)


def check_sampling(expert: ExpertConfig, config: GenerateConfig) -> None:
    """Check the settings of the stage with those of one expert on top.

    Raises:
        ConfigError: Samples would be equal, or an answer that the recipe asks for is as long as
            everything that the expert can read.
    """
    for task, settings in (("long", config.long), ("mcq", config.mcq)):
        sampling = expert.sampling_with(settings.sampling)
        if settings.samples > 1 and sampling.temperature == 0:
            problem = f"expert '{expert.name}' answers greedily, so its samples would be equal"
            fix = "give its recipe a sampling.temperature above 0, or ask for one sample"
            key = f"generate.{task}.samples"
            raise ConfigError(problem, key=key, value=settings.samples, fix=fix)
        if task in config.model_fields_set and sampling.max_tokens >= expert.max_model_len:
            problem = (
                f"no room for a prompt in the {expert.max_model_len} tokens of '{expert.name}'"
            )
            fix = "lower it, or raise the expert's max_model_len"
            key = f"generate.{task}.sampling.max_tokens"
            raise ConfigError(problem, key=key, value=sampling.max_tokens, fix=fix)


def side_by_side(
    tasks: Sequence[Callable[[str | None], Iterator[T]]], slots: Sequence[str | None]
) -> Iterator[T]:
    """Results of all tasks as they come, at most one task at a time on each slot."""
    waiting: Queue[Callable[[str | None], Iterator[T]]] = Queue()
    results: Queue[T | BaseException | None] = Queue(maxsize=len(slots))
    stop = threading.Event()
    for task in tasks:
        waiting.put(task)

    def work(slot: str | None) -> None:
        try:
            while not stop.is_set() and not waiting.empty():
                for done in waiting.get_nowait()(slot):
                    results.put(done)
            results.put(None)
        except BaseException as error:
            results.put(error)

    threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in slots]
    for thread in threads:
        thread.start()
    try:
        yield from _until_all_end(results, len(threads))
    finally:
        stop.set()
        _drain(results, threads)


def _until_all_end(results: Queue[Any], running: int) -> Iterator[Any]:
    while running:
        item = results.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            running -= 1
        else:
            yield item


def _drain(results: Queue[Any], threads: list[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            with suppress(Exception):
                results.get(timeout=0.05)


def question_range(unit: str) -> str:
    """Which questions a unit of this stage stands for, such as ``0000000-0000128``."""
    return "-".join(unit.rsplit("-", 2)[1:])
