"""From the name of a recipe to an expert that answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blender_med.config import load_yaml, parse
from blender_med.errors import ConfigError
from blender_med.experts.base import Expert, StateExpert
from blender_med.experts.config import ExpertConfig, StateConfig
from blender_med.experts.engines import engine_choice, engine_key, state_engine_choice
from blender_med.experts.hub import is_local
from blender_med.experts.made import ExpertJob, Save, made_expert
from blender_med.prompts.templates import TEMPLATES
from blender_med.registry import Registry, suggestion

_log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parent.parent
# A Hub id, or what names a model inside a Python package.
_SOURCE = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?|package:.+")

ENGINES = Registry(
    "engine",
    {
        "fake": "blender_med.experts.fake:FakeExpert",
        "openai": "blender_med.experts.openai:OpenAIExpert",
    },
)


def expert_folders(folder: str | Path | None = None) -> list[Path]:
    """Folders that hold expert recipes, in the order they are searched.

    ``folder`` alone when it is given, else ``experts/`` here, that of a source checkout, and
    that of an installed wheel.
    """
    if folder is not None:
        return [Path(folder)]
    return [Path("experts"), _PACKAGE.parent / "experts", _PACKAGE / "recipes" / "experts"]


def load_expert_config(
    source: str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    key: str = "",
    file: str | Path | None = None,
    within: tuple[Path, ...] = (),
) -> ExpertConfig:
    """Recipe of an expert; the recipe of a job is that of the expert which the job makes.

    Args:
        source: Name of a recipe, path of a YAML file, or the recipe itself as a mapping.
        folder: Where named recipes are; None for the usual places.
        key: Where ``source`` stands in the calling recipe, for messages.
        file: The calling recipe, for messages.
        within: Recipes of the experts that are made from this one.

    Raises:
        ConfigError: No such recipe, or it is not valid.
    """
    if isinstance(source, Mapping):
        return _checked(parse(ExpertConfig, dict(source), key=key, file=file), key=key, file=file)
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = _find(str(source), expert_folders(folder), key, file)
    tree = load_yaml(path)
    if "job" in tree:
        return _made(tree, folder, path, within)
    return _checked(parse(ExpertConfig, tree, file=path), file=path)


def _made(
    tree: Mapping[str, Any], folder: str | Path | None, file: Path, within: tuple[Path, ...]
) -> ExpertConfig:
    """The expert of a job's recipe; the job's own settings are not looked at."""
    known = {key: value for key, value in tree.items() if key in ExpertJob.model_fields}
    job = parse(ExpertJob, known, file=file)
    if file in within:
        fix = "name an expert that is not made from this one"
        problem = "an expert is made from itself"
        raise ConfigError(problem, key="base", file=file, value=job.base, fix=fix)
    base = load_expert_config(job.base, folder, key="base", file=file, within=(*within, file))
    save: Save = "adapter" if tree.get("save") == "adapter" else "merged"
    config = made_expert(job, base, job.folder, save=save, command=f"blender-med train {file}")
    TEMPLATES.check(config.template, key="expert.template", file=str(file))
    return config


def _checked(
    config: ExpertConfig, *, key: str = "", file: str | Path | None = None
) -> ExpertConfig:
    """The recipe, after a look at what pydantic cannot see: names, folders, engine options."""
    prefix, place = f"{key}." if key else "", None if file is None else str(file)
    TEMPLATES.check(config.template, key=f"{prefix}template", file=place)
    if config.engine == "fake":
        from blender_med.experts.fake import FakeOptions

        parse(FakeOptions, config.engine_options, file=place, key=f"{prefix}engine_options")
    if config.openai is None:
        for name in ("model", "tokenizer", "lora"):
            _check_source(getattr(config, name), key=f"{prefix}{name}", file=place)
    return config


def _check_source(source: str | None, *, key: str, file: str | None) -> None:
    if source is not None and not (is_local(source) or _SOURCE.fullmatch(source)):
        fix = "give an existing folder or a Hub id such as 'BioMistral/BioMistral-7B'"
        raise ConfigError("no such model folder", file=file, key=key, value=source, fix=fix)


def _find(name: str, folders: Sequence[Path], key: str, file: str | Path | None) -> Path:
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    fix = suggestion(name, known) if known else f"put {name}.yaml into {folders[0]}/"
    problem = "no such expert recipe"
    raise ConfigError(problem, key=key or "experts", file=file, value=name, fix=fix)


def load_expert(
    config: ExpertConfig, *, verbose: bool = False, device: str | None = None
) -> Expert:
    """The expert of a recipe; its engine starts on the first request.

    Args:
        config: The recipe.
        verbose: Let the engine's own log through instead of keeping it in a file.
        device: ``cpu`` or ``cuda:N``; None takes CUDA where there is one.

    Raises:
        ConfigError: The engine does not exist or the recipe contradicts itself.
        ExpertError: The settings cannot work on this machine.
        MissingDependencyError: The engine or the weights' package is not installed.
    """
    return load_experts([config], verbose=verbose, device=device)[0]


def load_experts(
    configs: Sequence[ExpertConfig], *, verbose: bool = False, device: str | None = None
) -> list[Expert]:
    """Experts in the order of ``configs``; those with the same ``engine_key`` share an engine.

    A shared engine stops when the last of its experts is closed. Arguments and exceptions as
    in ``load_expert``.
    """

    def choice(config: ExpertConfig) -> tuple[str, str]:
        return engine_choice(config, device=device)

    return _loaded(configs, choice, verbose=verbose, device=device, states=None)


def load_state_experts(
    configs: Sequence[ExpertConfig],
    states: StateConfig,
    *,
    verbose: bool = False,
    device: str | None = None,
) -> list[StateExpert]:
    """Experts that give hidden states, as :func:`load_experts` loads those that answer.

    Raises:
        ExpertError: Also where an expert's engine gives no such states.
    """

    def choice(config: ExpertConfig) -> tuple[str, str]:
        return state_engine_choice(config, states, device=device)

    return _loaded(configs, choice, verbose=verbose, device=device, states=states)


def _loaded(
    configs: Sequence[ExpertConfig],
    choice: Callable[[ExpertConfig], tuple[str, str]],
    *,
    verbose: bool,
    device: str | None,
    states: StateConfig | None,
) -> list[Any]:
    from blender_med.experts.local import LocalExpert, SharedEngine

    keys = [engine_key(config, device=device) for config in configs]
    engines: dict[str, SharedEngine] = {}
    experts: list[Any] = []
    for config, engine_id in zip(configs, keys, strict=True):
        engine, reason = choice(config)
        _log.info("expert %s: engine %s (%s)", config.name, engine, reason)
        if engine in ENGINES:
            given = () if states is None else (states,)
            experts.append(ENGINES.load(engine)(config, *given))
            continue
        group = [c for c, k in zip(configs, keys, strict=True) if k == engine_id]
        shared = engines.setdefault(
            engine_id,
            SharedEngine(engine, group, verbose=verbose, device=device, states=states),
        )
        experts.append(LocalExpert(config, shared))
    return experts
