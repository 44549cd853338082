"""What a stage is: it declares what it reads and writes, plans units of work, and does them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic

from blender_med.config import Recipe, result_fields
from blender_med.experts.config import ExpertConfig
from blender_med.records import Question, R, Record
from blender_med.stages.config import PipelineRecipe
from blender_med.store.shards import (
    StoredRecords,
    part_path,
    part_paths,
    part_rows,
    read_part,
)

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Unit:
    """One shard's worth of work.

    Attributes:
        name: File-safe, unique in the stage; the shard is ``part-<name>.parquet``.
        size: Steps of progress it stands for (questions, candidates).
    """

    name: str
    size: int


@dataclass(frozen=True)
class Run:
    """A run directory with the recipe and the experts that fill it."""

    recipe: PipelineRecipe
    experts: tuple[ExpertConfig, ...]
    folder: Path
    verbose: bool = False
    notes: list[str] = field(default_factory=list)

    def stage_folder(self, stage: str) -> Path:
        """Folder of a stage's shards and manifest."""
        return self.folder / stage

    @cached_property
    def questions(self) -> Sequence[Question]:
        """All prepared questions, in order; read from the shards where they are needed."""
        return StoredRecords(self.stage_folder("prepare"), Question)

    def preview(self, questions: Sequence[Question]) -> None:
        """Plan with these questions, before ``prepare`` has written any."""
        self.__dict__["questions"] = tuple(questions)

    def note(self, text: str) -> None:
        """Keep a remark for the end of the run (quarantined rows, experts skipped, ...)."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Reads:
    """Columns that a stage needs from an earlier one; an optional one may be absent."""

    stage: str
    columns: tuple[str, ...]
    optional: bool = False


class Stage(ABC):
    """One stage of a pipeline.

    Class attributes:
        name: Name in recipes and of the folder.
        reads: Earlier stages and the columns it needs from them.
        writes: Record type of its shards; None where it writes other files.
    """

    name: ClassVar[str]
    reads: tuple[Reads, ...] = ()
    writes: ClassVar[type[Record] | None] = None

    def __init__(self, config: Recipe, run: Run) -> None:
        self.config = config
        self.run = run

    @property
    def folder(self) -> Path:
        """Folder of this stage in the run directory."""
        return self.run.stage_folder(self.name)

    def identity(self) -> dict[str, Any]:
        """Every result-affecting setting, as plain JSON data; input fingerprints come on top."""
        return {"config": result_fields(self.config), "seed": self.run.recipe.seed}

    @property
    def shard_size(self) -> int | None:
        """Size of a unit; recorded with the plan, so that a resumed stage keeps its units."""
        return getattr(self.config, "shard_size", None)

    @abstractmethod
    def plan(self, shard_size: int | None) -> list[Unit]:
        """Units of work in a fixed order. May read the inputs, never loads a model."""

    @abstractmethod
    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Do the units that are missing and yield each with its records as it is done.

        ``advance(n)`` reports n steps of progress.
        """

    def is_written(self, unit: str) -> bool:
        """Whether all that the stage writes for a unit is there."""
        if self.writes is None:
            return False
        return part_rows(part_path(self.folder, unit), self.writes) is not None

    def discard(self) -> None:  # noqa: B027
        """Remove what the stage keeps across changes of its settings; ``--force`` asks for it."""

    def expected_rows(self) -> int | None:
        """Rows the stage will write, where that is known before it runs; reads data at most."""
        return None

    def extra_files(self) -> Mapping[str, Path]:
        """Files beside the shards that the stage has written, by name."""
        return {}


class MethodRecords(Generic[R]):
    """Records of one method in a stage's folder, read shard by shard on each iteration.

    Args:
        folder: Of a stage whose units are named ``METHOD-START-STOP``.
        method: Name of the method.
        record_type: What the stage writes.
    """

    def __init__(self, folder: Path, method: str, record_type: type[R]) -> None:
        self._folder, self._method = folder, method
        self._record_type: type[R] = record_type

    def __iter__(self) -> Iterator[R]:
        for path in part_paths(self._folder):
            if unit_method(path.stem.removeprefix("part-")) == self._method:
                yield from read_part(path, self._record_type)


def method_units(method: str, count: int, size: int) -> list[Unit]:
    """Units ``METHOD-START-STOP`` of a method over ``count`` questions."""
    return [Unit(f"{method}-{r.start:07d}-{r.stop:07d}", len(r)) for r in chunks(count, size)]


def unit_method(unit: str) -> str:
    """Method of a unit of :func:`method_units`."""
    return unit.rsplit("-", 2)[0]


def unit_range(unit: str) -> slice:
    """Positions of the questions of a unit of :func:`method_units`."""
    start, stop = unit.rsplit("-", 2)[1:]
    return slice(int(start), int(stop))


def chunks(count: int, size: int) -> list[range]:
    """Consecutive index ranges of at most ``size`` that cover ``count``; none for 0."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
