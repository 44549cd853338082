"""Stage ``prepare``: load the questions, assign splits, keep what was malformed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.data import QuarantinedRows, Questions, load_datasets
from blender_med.data.fingerprint import dataset_identity
from blender_med.data.splits import resplit, with_dev_split
from blender_med.errors import DataError
from blender_med.records import Question
from blender_med.stages.base import Advance, Stage, Unit, chunks
from blender_med.stages.prepare_config import PrepareConfig
from blender_med.store.files import remove_files


class Prepare(Stage):
    """Questions of the data sets with their splits; malformed rows go to ``quarantine.csv``."""

    name = "prepare"
    writes = Question
    config: PrepareConfig

    _quarantine: Path | None = None

    def identity(self) -> dict[str, Any]:
        """Settings of the data sets and hashes of their files come on top of the stage's own."""
        own = [dataset_identity(dataset) for dataset in self.run.recipe.dataset]
        return super().identity() | (own[0] if len(own) == 1 else {"datasets": own})

    def plan(self, shard_size: int | None) -> list[Unit]:
        """Shards of consecutive questions; loads the data sets."""
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
    def _loaded(self) -> list[Questions]:
        return load_datasets(self.run.recipe.dataset)

    @cached_property
    def _questions(self) -> list[Question]:
        for dataset, questions in zip(self.run.recipe.dataset, self._loaded, strict=True):
            if not questions:
                self._keep_quarantine()
                fix = "check path, split and columns; quarantine.csv says why rows were refused"
                problem = f"the data set ({dataset.type}) has no usable question"
                raise DataError(problem, file=dataset.path, fix=fix)
        loaded = zip(self.run.recipe.dataset, self._loaded, strict=True)
        return [question for dataset, own in loaded for question in self._split(dataset.type, own)]

    def _split(self, dataset_type: str, questions: Questions) -> list[Question]:
        fractions, seed = self.config.fractions(dataset_type), self.run.recipe.seed
        if fractions is None:
            return with_dev_split(questions, seed=seed)
        return resplit(questions, fractions, seed=seed)

    def _keep_quarantine(self) -> None:
        quarantined = QuarantinedRows(row for own in self._loaded for row in own.quarantined)
        file = self.folder / "quarantine.csv"
        if not quarantined:
            remove_files([file])  # of rows that have been corrected
            return
        self._quarantine = file
        quarantined.write_csv(file)
        self.run.note(f"{len(quarantined)} malformed rows are in {self._quarantine}")
