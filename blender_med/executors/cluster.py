"""A Ray cluster: how a run gets to it, and how many workers of a kind it holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blender_med.errors import BlenderMedError, ConfigError, MissingDependencyError
from blender_med.stages.executor_recipes import RayExecutorConfig

# Names of units and messages pass through the object store, never texts or models.
_STORE_BYTES = 100 * 1024**2
# "0" lets Ray take the loopback address for this machine, and listen on no other.
_CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True, slots=True)
class Node:
    """What a node offers."""

    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one kind: how many fit, and what each takes."""

    size: int
    cpus: int
    gpus: int


def connect(config: RayExecutorConfig, *, verbose: bool = False) -> Any:
    """Connect to a cluster, or start one on this machine; returns the module ``ray``.

    Raises:
        MissingDependencyError: Ray is not installed.
        BlenderMedError: The cluster does not answer.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    ray = _imported(alone=address is None, verbose=verbose)
    own = {} if address else {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(
            address=address or "local", log_to_driver=verbose, ignore_reinit_error=True,
            logging_level=logging.INFO if verbose else logging.ERROR, **own,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        fix = "check the address and that 'ray status' answers there; leave it out to start one"
        problem = f"no Ray cluster answers: {error}"
        raise BlenderMedError(problem, key="executor.address", value=address, fix=fix) from error
    return ray


def _imported(*, alone: bool, verbose: bool) -> Any:
    """The module; Ray reads these variables when it is imported.

    Raises:
        MissingDependencyError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone:
        os.environ[_CLUSTER_SWITCH] = "0"
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
        from ray.data import DataContext
    except ImportError as error:
        fix = "pip install 'blender-med[ray]'"
        problem = "this executor needs Ray, which is not installed"
        raise MissingDependencyError(problem, key="executor.type", value="ray", fix=fix) from error
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.ERROR)
    return ray


def nodes(ray: Any) -> list[Node]:
    """The nodes that are alive and take work."""
    alive = [node.get("Resources", {}) for node in ray.nodes() if node["Alive"]]
    found = [Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in alive]
    return [node for node in found if node.cpus > 0]


def pool(nodes: Sequence[Node], gpus: int, cpus_per_worker: int | None = None) -> Pool:
    """The workers that fit.

    A worker's GPUs are on one node. Without any GPU in the cluster a worker with a model gets
    ``cpus_per_worker`` cores.

    Args:
        nodes: Of the cluster.
        gpus: Of one worker where there are any; 0: it runs no model.
        cpus_per_worker: None: all cores of a node.

    Raises:
        ConfigError: Not one fits.
    """
    if gpus and any(node.gpus for node in nodes):
        size = sum(node.gpus // gpus for node in nodes)
        if not size:
            most = max(node.gpus for node in nodes)
            fix = f"set it to at most {most}, or add a node with {gpus} GPUs"
            problem = f"no node has {gpus} GPUs for one engine"
            raise ConfigError(problem, key="tensor_parallel_size", value=gpus, fix=fix)
        return Pool(size, 1, gpus)
    cpus = (cpus_per_worker or min((n.cpus for n in nodes), default=1)) if gpus else 1
    size = sum(node.cpus // cpus for node in nodes)
    if not size:
        fix = "lower executor.cpus_per_worker, or wait for the nodes ('ray status' lists them)"
        problem = f"no node has {cpus} CPU cores for one worker"
        raise ConfigError(problem, key="executor.cpus_per_worker", value=cpus, fix=fix)
    return Pool(size, cpus, 0)
