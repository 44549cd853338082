"""Executor for a Ray cluster: units stream through a pool of workers that keep their models.

Workers write the shards themselves, so the run directory lies on a file system that all nodes
see. What a lost worker or node had not finished is done again by another; shards that are written
stay.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from blender_med.errors import BlenderMedError, ConfigError, StoreError
from blender_med.executors.cluster import connect, nodes, pool
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.executors.worker import UnitWorker, job_of, restored
from blender_med.experts.engines import on_cuda
from blender_med.stages.base import Advance, Stage, Unit
from blender_med.stages.executor_recipes import RayExecutorConfig
from blender_med.stages.lanes import DividedStage, ExpertStage, Lane

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # in a row without a single new shard
_QUEUED = 2  # units at a worker: the one it does and the next one
_SEEN_SECONDS = 90.0  # network file systems show new files late


class RayExecutor:
    """Runs the divided stages on a cluster, lane by lane, and the others in this process.

    Args:
        config: Which cluster.
        display: Of the progress.
        verbose: Let Ray's own output through.
    """

    def __init__(
        self, config: RayExecutorConfig, display: ProgressDisplay, *, verbose: bool = False
    ) -> None:
        self._config = config
        self._display = display
        self._verbose = verbose
        self._local = LocalExecutor(display)
        self._ray: Any = None

    def execute(self, stage: Stage, units: Sequence[Unit], total: int) -> None:
        """Write the shard of every unit; a kill loses at most those being written."""
        if not isinstance(stage, DividedStage) or not units:
            self._local.execute(stage, units, total)
            return
        self._ray = self._ray or connect(self._config, verbose=self._verbose)
        finished = total - sum(unit.size for unit in units)
        with self._display.stage(stage.name, total, finished) as advance:
            stage.begin(units)
            for lane in stage.lanes(units):
                self._do(stage, lane, advance)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _do(self, stage: DividedStage, lane: Lane, advance: Advance) -> None:
        """Do a lane, again for what is missing after Ray has lost workers for good."""
        left, failures = {unit.name: unit for unit in lane.units}, 0
        while left:
            before = len(left)
            try:
                for name in self._streamed(stage, lane, list(left.values())):
                    advance(left.pop(name).size)
            except self._ray.exceptions.RayTaskError:  # a bug of ours, no lost worker
                raise
            except self._ray.exceptions.RayError as error:
                for name in [name for name in left if stage.is_written(name)]:
                    advance(left.pop(name).size)
                failures = 0 if len(left) < before else failures + 1
                if failures == _ATTEMPTS:
                    raise _lost(lane, error) from error
                logger.warning("%s: workers were lost, %d units again", stage.name, len(left))

    def _streamed(self, stage: DividedStage, lane: Lane, units: Sequence[Unit]) -> Iterator[str]:
        """Names of the units as they are done."""
        for row in self._dataset(stage, lane, units).iter_rows():
            if row["error"]:
                raise restored(row["error"])
            for note in json.loads(row["notes"]):
                stage.run.note(note)
            _await_shard(stage, row["unit"])
            yield row["unit"]

    def _dataset(self, stage: DividedStage, lane: Lane, units: Sequence[Unit]) -> Any:
        from ray.data import ActorPoolStrategy, from_items

        cluster = nodes(self._ray)
        own = pool(cluster, lane.gpus, self._config.cpus_per_worker)
        if own.gpus and isinstance(stage, ExpertStage):
            _check_same_device(stage, lane)
        size = min(own.size, len(units))
        rows = [{"unit": unit.name, "size": unit.size} for unit in units]
        return from_items(rows, override_num_blocks=len(rows)).map_batches(
            UnitWorker,
            batch_size=1,
            fn_constructor_args=(job_of(stage, lane.serves),),
            compute=ActorPoolStrategy(
                min_size=1,
                initial_size=size,
                max_size=size,
                max_tasks_in_flight_per_actor=_QUEUED,
            ),
            num_cpus=own.cpus,
            num_gpus=own.gpus,
        )


def _await_shard(stage: DividedStage, unit: str) -> None:
    """Wait until this process sees what a worker has written."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not stage.is_written(unit):
        if time.monotonic() > deadline:
            problem = f"a worker has written unit {unit}, but it is not to be seen here"
            fix = "put output_dir on a file system that every node mounts at the same path"
            raise StoreError(problem, file=stage.folder, fix=fix)
        time.sleep(0.2)


def _lost(lane: Lane, error: Exception) -> BlenderMedError:
    reason = str(error).strip().splitlines()
    problem = f"workers for {', '.join(lane.serves)} are lost again and again: {reason[-1:]}"
    fix = "see 'ray status' and the logs of the nodes; memory may run out. Then run it again"
    return BlenderMedError(problem, fix=fix)


def _check_same_device(stage: ExpertStage, lane: Lane) -> None:
    """Check that this process knows in which number format the workers compute.

    Raises:
        ConfigError: The format depends on the device, and here there is another one.
    """
    for expert in stage.served(lane.serves):
        if expert.dtype == "auto" and not on_cuda():
            problem = (
                f"the workers have GPUs and this process has none, so 'dtype: auto' of expert"
                f" '{expert.name}' does not mean the same here"
            )
            fix = "name the dtype in the expert recipe, or start the run on a node with a GPU"
            raise ConfigError(problem, key="dtype", value="auto", fix=fix)
