"""How the units of a stage are executed: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.stages.base import Run
from blender_med.stages.executor_recipes import RayExecutorConfig
from blender_med.stages.runner import Executor


@contextmanager
def open_executor(run: Run, display: ProgressDisplay) -> Iterator[Executor]:
    """The executor that a run's recipe names; it connects to a cluster when a stage needs it."""
    config = run.recipe.executor
    if not isinstance(config, RayExecutorConfig):
        yield LocalExecutor(display)
        return
    from blender_med.executors.ray import RayExecutor

    executor = RayExecutor(config, display, verbose=run.verbose)
    try:
        yield executor
    finally:
        executor.close()
