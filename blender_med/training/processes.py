"""Several processes that train one model, as ``torchrun`` or ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def process_count() -> int:
    """Number of processes; 1 where no launcher has started this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if process_count() > 1:
        _state().wait_for_everyone()


def from_first(function: Callable[[], T]) -> T:
    """What ``function`` returns in the first process, where alone it is called.

    An error there ends that process, and the launcher then ends the others.
    """
    if process_count() == 1:
        return function()
    from accelerate.utils import broadcast_object_list

    _state()
    [value] = broadcast_object_list([function() if is_first() else None])
    return value


def share(items: Sequence[T]) -> Sequence[T]:
    """The items that fall to this process: every n-th of them."""
    return items[int(os.environ.get("RANK", "0")) :: process_count()]


def gathered(values: list[T]) -> list[T]:
    """The values of all processes, the same list in each of them."""
    if process_count() == 1:
        return values
    from accelerate.utils import gather_object

    _state()
    return list(gather_object(values))


def _state() -> Any:
    """The process group, joined on the first call."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
