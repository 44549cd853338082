"""How many workers fit a cluster, the recipes of executors, errors on their way back."""

from __future__ import annotations

from contextlib import suppress

import pytest

from blender_med import errors
from blender_med.config import parse
from blender_med.errors import ConfigError, StoreError
from blender_med.executors.cluster import Node, Pool, pool
from blender_med.executors.worker import _counted, described, restored
from blender_med.stages.config import PipelineRecipe
from blender_med.stages.executor_recipes import RayExecutorConfig, with_executor

GPU_NODES = [Node(32, 8), Node(32, 8), Node(8, 0)]


@pytest.mark.parametrize(
    ("nodes", "gpus", "own", "expected"),
    [
        (GPU_NODES, 1, None, Pool(16, 1, 1)),
        (GPU_NODES, 3, None, Pool(4, 1, 3)),  # two on each node, never across nodes
        (GPU_NODES, 0, None, Pool(72, 1, 0)),
        ([Node(8, 0), Node(4, 0)], 1, None, Pool(3, 4, 0)),  # the smallest node as a whole
        ([Node(8, 0), Node(4, 0)], 2, 2, Pool(6, 2, 0)),
    ],
)
def test_workers_that_fit(nodes, gpus, own, expected) -> None:
    assert pool(nodes, gpus, own) == expected


@pytest.mark.parametrize(
    ("nodes", "gpus", "own", "message"),
    [
        (GPU_NODES, 16, None, "no node has 16 GPUs.*at most 8"),
        ([Node(2, 0)], 1, 4, "no node has 4 CPU cores"),
        ([], 1, None, "no node has 1 CPU cores"),
    ],
)
def test_workers_that_fit_nowhere(nodes, gpus, own, message) -> None:
    with pytest.raises(ConfigError, match=message):
        pool(nodes, gpus, own)


def executor_of(recipe_tree, **keys):
    return parse(PipelineRecipe, recipe_tree | keys).executor


def test_executors_in_recipes(recipe_tree) -> None:
    assert executor_of(recipe_tree).type == "local"
    assert executor_of(recipe_tree, executor="ray") == RayExecutorConfig()
    near = {"type": "ray", "address": "10.0.0.1:6379", "cpus_per_worker": 4}
    assert executor_of(recipe_tree, executor=near).cpus_per_worker == 4
    with pytest.raises(ConfigError, match=r"inside the cluster.*ray job submit"):
        executor_of(recipe_tree, executor={"type": "ray", "address": "ray://10.0.0.1:10001"})
    with pytest.raises(ConfigError, match="executor"):
        executor_of(recipe_tree, executor="spark")


def test_the_command_line_chooses_the_executor() -> None:
    own = {"executor": {"type": "ray", "address": "auto"}}
    assert with_executor(own, "ray") == own
    assert with_executor(own, "local") == {"executor": {"type": "local"}}
    assert with_executor({}, "ray") == {"executor": {"type": "ray"}}
    assert with_executor({}) == {}


def test_an_executor_changes_no_result(recipe_tree) -> None:
    from blender_med.config import result_fields

    plain, spread = (parse(PipelineRecipe, recipe_tree | own) for own in ({}, {"executor": "ray"}))
    assert result_fields(plain) == result_fields(spread)


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "ExpertError", "StoreError"])
def test_errors_come_back_as_they_were(name) -> None:
    sent = getattr(errors, name)("broken", fix="mend it", key="a.b", row=3, value="x")
    back = restored(described(sent))
    assert type(back) is type(sent) and str(back) == str(sent)


def test_an_error_keeps_its_file(tmp_path) -> None:
    sent = StoreError("broken", fix="mend it", file=tmp_path)
    assert str(restored(described(sent))) == str(sent)


def test_a_unit_that_kills_every_worker_is_given_up(tmp_path) -> None:
    for _ in range(5):
        with suppress(MemoryError), _counted(tmp_path, "a-0-5"):
            raise MemoryError
    with pytest.raises(StoreError, match="cost 5 workers their lives"), _counted(tmp_path, "a-0-5"):
        pytest.fail("it was begun again")
    with _counted(tmp_path, "a-5-9"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".a-0-5.tries.tmp"]
