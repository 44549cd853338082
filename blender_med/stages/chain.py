"""Checks that every stage finds the columns it reads, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from blender_med.errors import ConfigError
from blender_med.stages.base import Reads, Stage


def check_chain(stages: Sequence[Stage]) -> None:
    """Check the whole chain.

    Raises:
        ConfigError: A stage reads a stage that does not come before it, or a column that the
            earlier stage does not write. A stage that is read optionally may be absent.
    """
    names = {stage.name for stage in stages}
    written: dict[str, set[str]] = {}
    for position, stage in enumerate(stages):
        for reads in stage.reads:
            if reads.stage in names or not reads.optional:
                _check_read(stage, position, reads, written)
        record = stage.writes
        written[stage.name] = {f.name for f in fields(record)} if record else set()


def _check_read(stage: Stage, position: int, reads: Reads, written: dict[str, set[str]]) -> None:
    key = f"stages.{position}"
    if reads.stage not in written:
        fix = f"add '{reads.stage}' before '{stage.name}'"
        problem = (
            f"stage '{stage.name}' reads the output of '{reads.stage}', which is not before it"
        )
        raise ConfigError(problem, key=key, fix=fix)
    missing = [c for c in reads.columns if c not in written[reads.stage]]
    if missing:
        problem = f"stage '{stage.name}' needs column '{missing[0]}' of '{reads.stage}'"
        raise ConfigError(problem, key=key, fix="report this: two stages do not fit together")
