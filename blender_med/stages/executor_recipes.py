"""Recipes of executors: where the units of a stage are done. No result depends on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from blender_med.config import InvalidValueError, Recipe


class LocalExecutorConfig(Recipe):
    """This machine: engines have processes of their own, everything else runs in this one."""

    type: Literal["local"] = "local"


class RayExecutorConfig(Recipe):
    """A Ray cluster; every node sees the run directory, the models and the data at one path.

    ``address`` is that of a running cluster, ``auto`` the one that this machine belongs to. None:
    that of ``$RAY_ADDRESS``, which Ray's jobs have, else a cluster on this machine alone that
    listens on loopback. ``cpus_per_worker`` are the cores of a worker that runs a model where
    there is no GPU; None: all of a node.
    """

    type: Literal["ray"] = "ray"
    address: str | None = None
    cpus_per_worker: int | None = Field(None, ge=1)

    @field_validator("address")
    @classmethod
    def _not_from_outside(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            problem = "the run has to be started inside the cluster"
            fix = "use 'ray job submit' with this address, and leave it out here"
            raise InvalidValueError(problem, fix=fix)
        return value


ExecutorConfig = Annotated[
    LocalExecutorConfig | RayExecutorConfig,
    Field(discriminator="type"),
]


def with_executor(tree: dict[str, Any], chosen: str | None = None) -> dict[str, Any]:
    """A pipeline with its executor as a mapping.

    Args:
        tree: The pipeline.
        chosen: Type that takes the place of another one in the recipe; None: the recipe's.
    """
    given = tree.get("executor", "local")
    executor = {"type": given} if isinstance(given, str) else given
    if chosen is not None and not (isinstance(executor, dict) and executor.get("type") == chosen):
        executor = {"type": chosen}
    return {**tree, "executor": executor} if "executor" in tree or chosen else tree
