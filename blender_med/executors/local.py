"""Executor for one machine: the stage's units one after another, shards written as they come."""

from __future__ import annotations

from collections.abc import Sequence

from blender_med.executors.progress import ProgressDisplay
from blender_med.stages.base import Stage, Unit
from blender_med.store.shards import part_path, write_part


class LocalExecutor:
    """Runs stages in this process; engines have processes of their own."""

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display

    def execute(self, stage: Stage, units: Sequence[Unit], total: int) -> None:
        """Write the shard of every unit; a kill loses at most the one being written."""
        finished = total - sum(unit.size for unit in units)
        with self._display.stage(stage.name, total, finished) as advance:
            for unit, records in stage.execute(units, advance):
                if stage.writes is not None:
                    write_part(part_path(stage.folder, unit.name), records, stage.writes)
