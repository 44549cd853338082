"""Stage ``prepare``: load the questions, assign splits, keep what was malformed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data import Questions, load_dataset_config
from blender_med.data.fingerprint import dataset_fingerprint
from blender_med.data.splits import resplit, with_dev_split
from blender_med.errors import DataError
from blender_med.records import Question
from blender_med.stages.base import Advance, Stage, Unit, chunks
from blender_med.stages.config import PrepareConfig


class Prepare(Stage):
    """Questions of the data set with their splits; malformed rows go to ``quarantine.csv``."""

    name = "prepare"
    writes = Question
    config: PrepareConfig

    _quarantine: Path | None = None

    def identity(self) -> dict[str, Any]:
        """The data set's settings and the hash of its files come on top of the stage's own."""
        dataset = self.run.recipe.dataset
        return super().identity() | {
            "dataset": result_fields(dataset) | {"path": None},
            "content": dataset_fingerprint(dataset),
        }

    def plan(self, shard_size: int | None) -> list[Unit]:
        """Shards of consecutive questions; loads the data set."""
        ranges = chunks(len(self._questions), shard_size or self.config.shard_size)
        return [Unit(f"{r.start:07d}-{r.stop:07d}", len(r)) for r in ranges]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the questions of each unit, after the quarantined rows were written."""
        self._keep_quarantine()
        for unit in units:
            start, stop = (int(number) for number in unit.name.split("-"))
            advance(unit.size)
            yield unit, self._questions[start:stop]

    def expected_rows(self) -> int:
        """Number of usable questions; the later stages then plan with them."""
        self.run.preview(self._questions)
        return len(self._questions)

    def extra_files(self) -> Mapping[str, Path]:
        """``quarantine.csv`` where rows were malformed."""
        return {"quarantine": self._quarantine} if self._quarantine else {}

    @cached_property
    def _loaded(self) -> Questions:
        return load_dataset_config(self.run.recipe.dataset)

    @cached_property
    def _questions(self) -> list[Question]:
        if not self._loaded:
            self._keep_quarantine()
            fix = "check path, split and columns; quarantine.csv says why rows were refused"
            path = self.run.recipe.dataset.path
            raise DataError("the data set has no usable question", file=path, fix=fix)
        if isinstance(self.config.splits, dict):
            return resplit(self._loaded, self.config.splits, seed=self.run.recipe.seed)
        return with_dev_split(self._loaded, seed=self.run.recipe.seed)

    def _keep_quarantine(self) -> None:
        quarantined = self._loaded.quarantined
        file = self.folder / "quarantine.csv"
        if not quarantined:
            file.unlink(missing_ok=True)  # of rows that have been corrected
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._quarantine = file
        quarantined.write_csv(file)
        self.run.note(f"{len(quarantined)} malformed rows are in {self._quarantine}")
