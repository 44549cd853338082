"""Decides which stages of a pipeline have to run, runs them through an executor, keeps books."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from blender_med.config import Recipe, load_yaml, parse
from blender_med.errors import BlenderMedError, ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.hub import UnknownCommitError
from blender_med.experts.made import NotMadeError
from blender_med.records import Record
from blender_med.registry import suggestion
from blender_med.stages.base import Run, Stage, Unit
from blender_med.stages.chain import check_chain
from blender_med.stages.config import STAGES, PipelineRecipe
from blender_med.store.files import remove_files, write_text
from blender_med.store.manifest import (
    Manifest,
    Progress,
    fingerprint,
    provenance,
    read_manifest,
    read_progress,
    timestamp,
    write_manifest,
    write_progress,
)
from blender_med.store.shards import part_path, part_paths, part_rows

logger = logging.getLogger(__name__)

Action = Literal["run", "resume", "skip", "excluded"]

_RECIPE = "recipe.yaml"


class Executor(Protocol):
    """Does the missing units of a stage and writes their shards."""

    def execute(self, stage: Stage, units: Sequence[Unit], total: int) -> None:
        """Write ``part-<unit>.parquet`` for every unit; ``total`` counts all steps of the stage."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stages a command may touch.

    Attributes:
        only: These stages alone; None means all.
        start: First stage to consider (``--from``).
        force: Run the considered stages even if they are up to date.
    """

    only: tuple[str, ...] | None = None
    start: str | None = None
    force: bool = False

    def covers(self, name: str, names: Sequence[str]) -> bool:
        """Whether stage ``name`` of a pipeline with stages ``names`` is considered."""
        if self.only is not None:
            return name in self.only
        return self.start is None or names.index(name) >= names.index(self.start)

    def check(self, names: Sequence[str]) -> None:
        """Raise ConfigError where a stage is named that the pipeline lacks."""
        for key, values in (("--only", self.only or ()), ("--from", (self.start,))):
            for name in values:
                if name is not None and name not in names:
                    raise ConfigError(
                        "the pipeline has no such stage", key=key, value=name,
                        fix=suggestion(name, names),
                    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What would happen to one stage, and why."""

    name: str
    action: Action
    reason: str
    rows: int | None = None


def stages_of(run: Run) -> list[Stage]:
    """The stages of a run, built and checked as a chain; no model is loaded."""
    built = [STAGES.load(config.type)(config, run) for config in run.recipe.stages]
    check_chain(built)
    return built


def run_pipeline(
    run: Run,
    executor: Executor,
    selection: Selection,
    on_stage: Callable[[StagePlan], None] = lambda plan: None,
) -> list[StagePlan]:
    """Bring the selected stages up to date; returns what was done.

    The caller holds the lock of the run directory. ``on_stage`` is told of each selected stage
    once it is up to date.

    Raises:
        BlenderMedError: A stage fails; finished shards stay and the next call continues there.
    """
    names = list(run.recipe.stage_names())
    selection.check(names)
    stages, done, inputs = stages_of(run), [], dict[str, str]()
    covered = [stage for stage in stages if selection.covers(stage.name, names)]
    is_new = not _is_saved(run)
    if run.recipe.stage("train-expert") is None:
        for stage in covered:
            _check_models(stage)
    save_recipe(run)
    for stage in stages:
        if not selection.covers(stage.name, names):
            inputs[stage.name] = _existing_fingerprint(stage, needed=covered)
            done.append(_excluded(stage, is_new=is_new))
            continue
        current, plan = _decide(stage, inputs, force=selection.force)
        inputs[stage.name] = current
        if plan.action != "skip":
            if selection.force:
                stage.discard()
            plan = _bring_up_to_date(stage, current, inputs, executor, plan)
        logger.info("%s: %s (%s)", plan.name, plan.action, plan.reason)
        on_stage(plan)
        done.append(plan)
    return done


def _check_models(stage: Stage) -> None:
    """Find a missing model before the stages ahead have spent hours; made ones come later.

    Raises:
        BlenderMedError: A model of the stage is not at hand.
    """
    with suppress(NotMadeError):
        stage.identity()


def dry_run(run: Run, selection: Selection) -> list[StagePlan]:
    """What ``run_pipeline`` would do; reads files only.

    Once a stage would run, the ones after it that read it would run too; their rows are not
    known yet. A stage without results needs no word from the Hub about its models.
    """
    names = list(run.recipe.stage_names())
    selection.check(names)
    plans, inputs, changed = [], dict[str, str](), set[str]()
    for stage in stages_of(run):
        if not selection.covers(stage.name, names):
            plans.append(_excluded(stage, is_new=not _is_saved(run)))
            inputs[stage.name] = _recorded_fingerprint(stage) or ""
            continue
        stale = [r.stage for r in stage.reads if r.stage in changed]
        current, plan = _foreseen(stage, inputs, force=selection.force)
        if stale and plan.action != "run":
            plan = StagePlan(stage.name, "run", f"its input '{stale[0]}' would change", plan.rows)
        inputs[stage.name] = current
        if plan.action != "skip":
            changed.add(stage.name)
            plan = replace(plan, rows=stage.expected_rows())
        plans.append(plan)
    return plans


def _foreseen(stage: Stage, inputs: dict[str, str], *, force: bool) -> tuple[str, StagePlan]:
    try:
        return _decide(stage, inputs, force=force)
    except NotMadeError as error:
        return "", StagePlan(stage.name, "run", error.problem)
    except UnknownCommitError as error:
        if read_manifest(stage.folder) or read_progress(stage.folder):
            raise
        reason = f"no results yet; {error.value} is not here and the Hub is out of reach"
        return "", StagePlan(stage.name, "run", reason)


def status(run: Run) -> list[StagePlan]:
    """State of each stage of a run directory, from its files alone."""
    return [_state(stage) for stage in stages_of(run)]


def _excluded(stage: Stage, *, is_new: bool) -> StagePlan:
    """Plan of a stage that is not selected; warns where its results are of another recipe."""
    manifest = read_manifest(stage.folder)
    keys = _changed_settings(stage, manifest) if is_new and manifest else []
    reason = f"its results are of other settings: {', '.join(keys)}" if keys else "not selected"
    if keys:
        logger.warning("%s is not selected, but %s", stage.name, reason)
    return StagePlan(stage.name, "excluded", reason)


def _changed_settings(stage: Stage, manifest: Manifest) -> list[str]:
    try:
        return _differences(manifest.identity, stage.identity())
    except BlenderMedError:  # the weights or the data may be on another machine
        return []


def save_recipe(run: Run) -> None:
    """Keep the recipe as it is run (overrides applied) beside its results."""
    write_text(run.folder / _RECIPE, _recipe_text(run))


def _is_saved(run: Run) -> bool:
    """Whether the run directory is of exactly this recipe."""
    file = run.folder / _RECIPE
    return file.is_file() and file.read_bytes() == _recipe_text(run).encode()


def _recipe_text(run: Run) -> str:
    tree = {
        "recipe": run.recipe.model_dump(mode="json", exclude_unset=True),
        "experts": [e.model_dump(mode="json", exclude_unset=True) for e in run.experts],
    }
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def open_run(folder: Path, *, verbose: bool = False) -> Run:
    """Reopen a run directory from the recipe saved in it.

    Raises:
        ConfigError: The folder is no run directory.
    """
    file = folder / _RECIPE
    if not file.is_file():
        fix = "name a run directory, such as runs/quickstart"
        raise ConfigError("no run here (recipe.yaml is missing)", file=folder, fix=fix)
    saved = parse(_Saved, load_yaml(file), file=file)
    return Run(saved.recipe, saved.experts, folder, verbose=verbose)


class _Saved(Recipe):
    """What ``recipe.yaml`` of a run directory holds."""

    recipe: PipelineRecipe
    experts: tuple[ExpertConfig, ...]


def _decide(stage: Stage, inputs: dict[str, str], *, force: bool) -> tuple[str, StagePlan]:
    read = _read_inputs(stage, inputs)
    current = fingerprint(stage.name, stage.identity(), read)
    manifest = read_manifest(stage.folder)
    if force:
        return current, StagePlan(stage.name, "run", "forced")
    if manifest and manifest.fingerprint == current:
        if _is_complete(stage, manifest):
            return current, StagePlan(stage.name, "skip", "up to date", manifest.rows)
        return current, StagePlan(stage.name, "resume", "a shard is missing or damaged")
    progress = read_progress(stage.folder)
    if progress and progress.fingerprint == current:
        done = len(_finished(stage, progress.units))
        reason = f"{done} of {len(progress.units)} shards are done"
        return current, StagePlan(stage.name, "resume", reason)
    return current, StagePlan(stage.name, "run", _why(stage, manifest, read))


def _read_inputs(stage: Stage, inputs: dict[str, str]) -> dict[str, str]:
    """Fingerprints of the stages that a stage reads; optional ones may be absent."""
    return {r.stage: inputs[r.stage] for r in stage.reads if r.stage in inputs}


def _why(stage: Stage, manifest: Manifest | None, read: dict[str, str]) -> str:
    if manifest is None:
        return "no results yet"
    names = manifest.inputs | read
    changed = [name for name in names if manifest.inputs.get(name) != read.get(name)]
    if changed:
        return f"its input '{changed[0]}' changed"
    keys = _differences(manifest.identity, stage.identity())
    return f"its settings changed: {', '.join(keys)}" if keys else "the record format changed"


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Dotted keys at which two trees of plain data differ; the stage's own stand without prefix."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        prefix = "" if key in ("", "config") else f"{key}."
        inner = sorted({*old, *new})
        return [d for k in inner for d in _differences(old.get(k), new.get(k), f"{prefix}{k}")]
    return [] if old == new else [key]


def _is_complete(stage: Stage, manifest: Manifest) -> bool:
    files = all((stage.folder / name).is_file() for name in manifest.files)
    if stage.writes is None:
        return files
    rows = (part_rows(part_path(stage.folder, unit), stage.writes) for unit in manifest.parts)
    return files and all(a == b for a, b in zip(rows, manifest.parts.values(), strict=True))


def _finished(stage: Stage, units: Sequence[str]) -> list[str]:
    return [unit for unit in units if stage.is_written(unit)]


def _bring_up_to_date(
    stage: Stage, current: str, inputs: dict[str, str], executor: Executor, plan: StagePlan
) -> StagePlan:
    started = time.perf_counter()
    fresh = plan.action == "run"
    units = _start(stage, current, fresh=fresh)
    finished = set() if fresh else set(_finished(stage, [u.name for u in units]))
    missing = [unit for unit in units if unit.name not in finished]
    executor.execute(stage, missing, sum(unit.size for unit in units))
    manifest = _manifest(stage, current, inputs, units, time.perf_counter() - started)
    write_manifest(stage.folder, manifest)
    return StagePlan(plan.name, plan.action, plan.reason, manifest.rows)


def _start(stage: Stage, current: str, *, fresh: bool) -> list[Unit]:
    """Units of the stage; a fresh start removes the old shards, a resumed one keeps its plan."""
    progress = None if fresh else read_progress(stage.folder)
    size = (progress.shard_size if progress else None) or stage.shard_size
    units = stage.plan(size)
    if fresh:
        _clear(stage)
    names = [unit.name for unit in units]
    write_progress(stage.folder, Progress(fingerprint=current, units=names, shard_size=size))
    _remove_strays(stage.folder, {part_path(stage.folder, name) for name in names})
    return units


def _remove_strays(folder: Path, wanted: set[Path]) -> None:
    """Remove shards of another plan and the temporary file of a killed process."""
    strays = [path for path in part_paths(folder) if path not in wanted]
    remove_files([*strays, *folder.glob(".*.tmp")])


def _clear(stage: Stage) -> None:
    remove_files([stage.folder / "manifest.json", *part_paths(stage.folder)])


def _manifest(
    stage: Stage, current: str, inputs: dict[str, str], units: Sequence[Unit], seconds: float
) -> Manifest:
    parts = dict[str, int]()
    if stage.writes is not None:
        parts = {u.name: _rows(stage, u.name, stage.writes) for u in units}
    return Manifest(
        stage=stage.name,
        fingerprint=current,
        identity=stage.identity(),
        inputs=_read_inputs(stage, inputs),
        parts=parts,
        rows=sum(parts.values()),
        files=sorted(str(p.relative_to(stage.folder)) for p in stage.extra_files().values()),
        seconds=seconds,
        finished=timestamp(),
        provenance=provenance(),
    )


def _rows(stage: Stage, unit: str, record_type: type[Record]) -> int:
    return part_rows(part_path(stage.folder, unit), record_type) or 0


def _recorded_fingerprint(stage: Stage) -> str | None:
    manifest = read_manifest(stage.folder)
    return manifest.fingerprint if manifest else None


def _existing_fingerprint(stage: Stage, needed: Sequence[Stage]) -> str:
    """Fingerprint of a stage that is not selected; it must have results if ``needed`` read them."""
    recorded = _recorded_fingerprint(stage)
    readers = [s.name for s in needed if stage.name in [r.stage for r in s.reads]]
    if recorded is None and readers:
        fix = f"run the whole pipeline first, or select '{stage.name}' too"
        raise ConfigError(f"stage '{stage.name}' has no results yet", fix=fix)
    return recorded or ""


def _state(stage: Stage) -> StagePlan:
    manifest, progress = read_manifest(stage.folder), read_progress(stage.folder)
    if manifest:
        return StagePlan(stage.name, "skip", f"finished {manifest.finished}", manifest.rows)
    if progress:
        done = len(_finished(stage, progress.units))
        return StagePlan(stage.name, "resume", f"{done} of {len(progress.units)} shards done")
    return StagePlan(stage.name, "run", "not started")
