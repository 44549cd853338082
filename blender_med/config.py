"""Recipes: strict frozen models, YAML loading, ``--set`` overrides, result-affecting fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blender_med.errors import ConfigError
from blender_med.registry import suggestion

_SPEED_ONLY = "speed_only"
_FIXES = {
    "missing": "add this key to the recipe",
    "model_type": "write it as 'key: value' lines below the key",
    "dict_type": "write it as 'key: value' lines below the key",
    "too_short": "name at least one",
    "value_error": "change it as the message says",
}


class Recipe(BaseModel):
    """Base of every recipe: frozen, unknown keys forbidden, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


M = TypeVar("M", bound=BaseModel)


class InvalidValueError(ValueError):
    """A value that a recipe's own check refuses; the caller adds file, key and value.

    Args:
        problem: What is wrong.
        fix: What the user does about it.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


def speed_only(default: Any = ..., **constraints: Any) -> Any:
    """Field that changes how fast a result comes or how it is described, never the result.

    Changing such a field never recomputes a stage: fingerprints leave it out.
    """
    return Field(default, json_schema_extra={_SPEED_ONLY: True}, **constraints)


def result_fields(value: Any) -> Any:
    """``value`` as plain JSON data without the speed-only fields, at every depth."""
    if isinstance(value, BaseModel):
        return {
            name: result_fields(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if not (
                isinstance(field.json_schema_extra, dict) and _SPEED_ONLY in field.json_schema_extra
            )
        }
    if isinstance(value, Mapping):
        return {str(k): result_fields(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [result_fields(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, holds a key twice, or is no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such recipe file", file=file, fix="check the path and the spelling")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        problem = f"not valid YAML: {error}"
        raise ConfigError(problem, file=file, fix="correct the syntax at that place") from error
    if not isinstance(tree, dict) or not all(isinstance(k, str) for k in tree):
        fix = "write 'key: value' lines with text keys"
        raise ConfigError("a recipe must be a mapping", file=file, value=tree, fix=fix)
    return tree


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return ``tree`` with each ``a.b=value`` applied; the value is read as YAML.

    A list item is named by its position (``experts.0``), its type or its name
    (``stages.generate.cache``). ``a.b+=value`` puts the value behind the items of a list. Missing
    mappings are created, so a misspelt key is still caught when the recipe is parsed.

    Raises:
        ConfigError: An override has no ``=``, its path runs through a value, or ``+=`` meets what
            is no list.
    """
    result = _copied(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            fix = "write it as key=value, for example dataset.limit=100"
            raise ConfigError(
                "an override needs a key and a value", key="--set", value=override, fix=fix
            )
        value = _override_value(key, text)
        if key.rstrip().endswith("+"):
            _append(result, key.rstrip().removesuffix("+").strip(), value)
        else:
            _assign(result, key.strip(), value)
    return result


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with the keys of ``changes`` set, mappings within mappings likewise.

    A mapping of another ``type`` replaces the one it meets, and so does anything but a mapping.
    """
    result = _copied(tree)
    for key, value in changes.items():
        own = result.get(key)
        is_same = isinstance(own, Mapping) and isinstance(value, Mapping)
        if is_same and value.get("type", own.get("type")) == own.get("type"):
            value = merged(own, value)
        result[key] = _copied(value)
    return result


def _override_value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fix = "quote the value as YAML asks"
        raise ConfigError("the value is not valid YAML", key=key, value=text, fix=fix) from error


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    node: Any = tree
    for part in path:
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[_slot(node, part, key)]
    if isinstance(node, list) and last.isdigit() and int(last) == len(node):
        node.append(value)
    else:
        node[_slot(node, last, key)] = value


def _append(tree: dict[str, Any], key: str, value: Any) -> None:
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else node[_slot(node, part, key)]
    if not isinstance(node, list):
        fix = "write key=value; += is for lists"
        raise ConfigError("there is no list to append to", key=key, value=node, fix=fix)
    node.append(value)


def _slot(node: Any, part: str, key: str) -> Any:
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return int(part)
    if isinstance(node, list):
        for position, item in enumerate(node):
            if isinstance(item, dict) and part in (item.get("type"), item.get("name")):
                return position
    fix = "name an existing mapping key, or a list item by its type, name or position from 0"
    raise ConfigError(f"cannot set '{part}' here", key=key, value=node, fix=fix)


def parse(model: type[M], tree: Any, *, file: str | Path | None = None, key: str = "") -> M:
    """Validate ``tree`` as ``model``.

    Args:
        model: Recipe class.
        tree: Plain data, as read from YAML.
        file: Recipe file, for the message.
        key: Dotted key under which ``tree`` stands in the recipe, for the message.

    Raises:
        ConfigError: The first problem found, with its key, the value and the fix.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _config_error(model, tree, error, file, key) from error


def _config_error(
    model: type[BaseModel], tree: Any, error: ValidationError, file: str | Path | None, key: str
) -> ConfigError:
    """The problem that says most: an unknown key, else the one that lies deepest in the recipe."""
    details = sorted(
        error.errors(), key=lambda d: (d["type"] != "extra_forbidden", -len(_steps(tree, d)))
    )
    first = details[0]
    path = ".".join([key] * bool(key) + _steps(tree, first))
    more = f" ({len(details) - 1} more problems follow)" if len(details) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    problem = message[:1].lower() + message[1:] + more
    fix = _fix(model, first)
    if not first["loc"]:  # the whole recipe says less than the problem
        return ConfigError(problem, key=path or None, file=file, fix=fix)
    return ConfigError(problem, key=path or None, file=file, value=first["input"], fix=fix)


def _steps(tree: Any, detail: Any) -> list[str]:
    """Keys that lead to a problem, as an override names them: pydantic's own tags left out."""
    steps: list[str] = []
    *_, last = detail["loc"] or ("",)
    for part in detail["loc"]:
        if _has(tree, part):
            tree = tree[part]
        elif not (detail["type"] == "missing" and part is last):
            continue
        steps.append(str(part))
    return steps


def _has(node: Any, part: Any) -> bool:
    if isinstance(node, (list, tuple)):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, Mapping) and part in node


def _fix(model: type[BaseModel], detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        advice = suggestion(str(detail["loc"][-1]), known) if known else "remove it"
        return f"unknown keys are refused; {advice}"
    if detail["type"] == "union_tag_invalid":
        expected = [tag.strip(" '") for tag in detail["ctx"]["expected_tags"].split(",")]
        return suggestion(detail["ctx"]["tag"], expected)
    own = (detail.get("ctx") or {}).get("error")
    if isinstance(own, InvalidValueError):
        return own.fix
    return _FIXES.get(detail["type"], "give a value of the type and range named")


def _keys_at(model: type[BaseModel], path: Iterable[Any]) -> list[str]:
    """Keys that may stand under ``path``; list positions and union tags are steps of a path."""
    models = [model]
    for part in path:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if annotations:
            models = [inner for annotation in annotations for inner in _models_in(annotation)]
        else:
            tagged = [m for m in models if _tag(m) == part]
            models = tagged or models
    return sorted({key for m in models for key in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["type"].default if "type" in model.model_fields else None
