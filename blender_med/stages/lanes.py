"""Stages whose units can be done anywhere and in any order: what serves which units."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from typing import Any, TypeVar

from blender_med.experts.config import ExpertConfig
from blender_med.experts.devices import device_slots
from blender_med.experts.engines import engine_key
from blender_med.stages.base import Advance, Stage, Unit, unit_method
from blender_med.stages.config import EmbedConfig, GenerateConfig

Share = Callable[[float], None]
Work = Callable[[Unit, Share], list[Any]]
Done = tuple[Unit, list[Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lane:
    """Units that the same loaded models serve.

    Attributes:
        serves: Names of what is loaded: experts, a ranker, a method.
        units: In order.
        gpus: GPUs of one worker. Where there are none, a worker computes on every core it gets.
            0: it runs no model.
    """

    serves: tuple[str, ...]
    units: tuple[Unit, ...]
    gpus: int = 0


class DividedStage(Stage):
    """A stage that divides its units into lanes.

    Units of a lane do not depend on each other. Those of a later lane may read the shards of an
    earlier one.
    """

    @abstractmethod
    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """The units by what serves them, in order. Loads no model."""

    @abstractmethod
    def worker(
        self, serves: Sequence[str], device: str | None = None
    ) -> AbstractContextManager[Work]:
        """Load what a lane needs; the function given makes the records of a unit.

        Args:
            serves: Of the lane.
            device: ``cpu`` or ``cuda:N``; None takes CUDA where there is one.
        """

    def begin(self, units: Sequence[Unit]) -> None:
        """What is done once, before the first lane."""

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[Done]:
        """Do the lanes one after another."""
        self.begin(units)
        for lane in self.lanes(units):
            yield from self.serve(lane, advance, None)

    def serve(self, lane: Lane, advance: Advance, device: str | None) -> Iterator[Done]:
        """Do the units of one lane."""
        with self.worker(lane.serves, device) as work:
            for unit in lane.units:
                progress = _UnitProgress(advance, unit.size)
                yield unit, work(unit, progress.add)
                progress.finish()


class _UnitProgress:
    """Turns shares of a unit's work into whole steps."""

    def __init__(self, advance: Advance, size: int) -> None:
        self._advance = advance
        self._size = size
        self._share = 0.0
        self._told = 0

    def add(self, share: float) -> None:
        self._share += share
        self._tell(min(self._size, int(self._share * self._size)))

    def finish(self) -> None:
        self._tell(self._size)

    def _tell(self, done: int) -> None:
        if done > self._told:
            self._advance(done - self._told)
            self._told = done


class ExpertStage(DividedStage):
    """A stage whose units are named ``EXPERT-START-STOP``; experts with one engine share a lane."""

    config: GenerateConfig | EmbedConfig

    def expert_lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """A lane for each engine with work to do, in the order of the experts."""
        found: dict[str, list[ExpertConfig]] = {}
        owners = {unit_method(unit.name) for unit in units}
        for expert in self.run.experts:
            if expert.name in owners:
                found.setdefault(engine_key(expert), []).append(expert)
        return [_engine_lane(group, units) for group in found.values()]

    def served(self, serves: Sequence[str]) -> list[ExpertConfig]:
        """Recipes of the experts of a lane."""
        return [expert for expert in self.run.experts if expert.name in serves]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[Done]:
        """Do the lanes side by side, one per device slot; those of no expert stand behind."""
        self.begin(units)
        lanes = self.lanes(units)
        engines = self.expert_lanes(units)
        slots = device_slots(self.config.devices, self._gpus_of_an_engine())[: len(engines)]
        if len(slots) <= 1:
            slot = slots[0] if slots else None
            for lane in engines:
                yield from self.serve(lane, advance, slot)
        else:
            yield from side_by_side([partial(self.serve, e, advance) for e in engines], slots)
        for lane in lanes[len(engines) :]:
            yield from self.serve(lane, advance, None)

    def _gpus_of_an_engine(self) -> int:
        return max((e.tensor_parallel_size for e in self.run.experts), default=1)


def _engine_lane(group: Sequence[ExpertConfig], units: Sequence[Unit]) -> Lane:
    names = tuple(expert.name for expert in group)
    own = tuple(u for name in names for u in units if unit_method(u.name) == name)
    return Lane(names, own, engine_gpus(group[0]))


def engine_gpus(expert: ExpertConfig) -> int:
    """GPUs of one engine of an expert; 0 where its model does not run on our machines."""
    return 0 if expert.engine in ("fake", "openai") else expert.tensor_parallel_size


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
            while not stop.is_set() and (task := _next(waiting)) is not None:
                for done in task(slot):
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


def _next(waiting: Queue[T]) -> T | None:
    try:
        return waiting.get_nowait()
    except Empty:
        return None


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
