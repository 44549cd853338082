"""Loading questions and passages of any type by its name in recipes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from blender_med.config import parse
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.data.continuation import continuations
from blender_med.data.quarantine import Passages, QuarantinedRow, Questions
from blender_med.errors import DataError
from blender_med.records import Passage, Question
from blender_med.registry import suggestion

T = TypeVar("T", Question, Passage)


def load_questions(
    type: str,
    path: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Questions:
    """Load a question set.

    Args:
        type: Name of the type, such as ``medquad`` or ``csv``.
        path: Local file, folder or zip in the original format, or a Hub id ``org/name``;
            None takes the type's own Hub id (``sample``: the set of this project).
        split: Keep the questions of one split only: ``train``, ``dev`` or ``test``.
        limit: Keep at most this many questions: those with the lowest sha256 of their id, in
            their original order. The same on every machine, and spread over the whole set.
        strict: Raise on the first malformed row instead of quarantining it.
        columns: Field of Question to column name, for ``jsonl``, ``csv`` and ``parquet``.
        options: Settings of one type, such as ``{"n_options": 5}`` of ``medqa``.

    Returns:
        The questions in the order of the files; ``.quarantined`` has every row that is none.
        No question is left out otherwise, except by ``split``, ``limit`` and ``options``.

    Raises:
        ConfigError: An argument is of no known type or value.
        DataError: The path is missing, empty or of another type, or has no such split.
    """
    return load_dataset_config(_config(type, path, split, limit, strict, columns, options))


def load_passages(
    type: str,
    path: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Passages:
    """Load texts without questions (``pubmed_abstracts``, ``pmc_oa``) for pretraining.

    Arguments, returned rows and errors are those of ``load_questions``.
    """
    return _passages(_config(type, path, split, limit, strict, None, options))


def load_any(config: DatasetConfig) -> Questions | Passages:
    """Questions or passages, whichever the type of a parsed recipe holds."""
    if DATASETS.load(config.type).record is Question:
        return load_dataset_config(config)
    return _passages(config)


def load_dataset_config(config: DatasetConfig) -> Questions:
    """``load_questions`` for a parsed recipe; passages with a ``continuation`` are questions."""
    if config.continuation is not None:
        passages = _passages(config.model_copy(update={"limit": None}))
        cut = list(continuations(passages, config.continuation))
        return Questions(_wanted(cut, config), passages.quarantined)
    records, quarantined = _load(config, Question)
    return Questions(_wanted(records, config), quarantined)


def load_datasets(configs: Sequence[DatasetConfig]) -> list[Questions]:
    """``load_dataset_config`` for each; ids are unique over all of them."""
    loaded = [load_dataset_config(config) for config in configs]
    unique = iter(unique_ids(question for questions in loaded for question in questions))
    return [Questions(islice(unique, len(own)), own.quarantined) for own in loaded]


def _passages(config: DatasetConfig) -> Passages:
    records, quarantined = _load(config, Passage)
    return Passages(_wanted(records, config), quarantined)


def _config(
    type: str,
    path: str | Path | None,
    split: str | None,
    limit: int | None,
    strict: bool,
    columns: Mapping[str, str] | None,
    options: Mapping[str, Any] | None,
) -> DatasetConfig:
    tree = {
        "type": type,
        "path": None if path is None else str(path),
        "split": split,
        "limit": limit,
        "strict": strict,
        "columns": dict(columns or {}),
        "options": dict(options or {}),
    }
    return parse(DatasetConfig, tree, key="dataset")


def _load(config: DatasetConfig, record: type[T]) -> tuple[list[T], list[QuarantinedRow]]:
    loader = DATASETS.load(config.type)(config)
    if loader.record is not record:
        other = "load_passages" if record is Question else "load_questions"
        problem = f"type {config.type} holds {loader.record.__name__.lower()}s"
        raise DataError(problem, value=config.type, fix=f"load it with {other}")
    records: list[T] = []
    quarantined: list[QuarantinedRow] = []
    for item in loader.load():
        if not isinstance(item, QuarantinedRow):
            records.append(item)
        elif config.strict:
            raise item.error()
        else:
            quarantined.append(item)
    return unique_ids(records), quarantined


def unique_ids(records: Iterable[T]) -> list[T]:
    """Give the second and later records of one id the suffixes ``#2``, ``#3``, ..."""
    listed = list(records)
    taken = {record.id for record in listed}
    seen: Counter[str] = Counter()
    result = []
    for record in listed:
        seen[record.id] += 1
        result.append(
            record if seen[record.id] == 1 else replace(record, id=_free(record.id, seen, taken))
        )
    return result


def _free(name: str, seen: Counter[str], taken: set[str]) -> str:
    while f"{name}#{seen[name]}" in taken:
        seen[name] += 1
    taken.add(f"{name}#{seen[name]}")
    return f"{name}#{seen[name]}"


def _wanted(records: Sequence[T], config: DatasetConfig) -> list[T]:
    kept = list(records)
    if config.split is not None:
        kept = [record for record in records if record.split == config.split]
        if records and not kept:
            fix = f"choose one of: {', '.join(sorted({r.split for r in records}))}"
            raise DataError(
                "the data set has no such split",
                file=config.path,
                key="dataset.split",
                value=config.split,
                fix=fix,
            )
    for name, values in config.where.items():
        kept = _having(kept, name, values, config.path)
    kept = [record for record in kept if _place(record) < config.documents]
    return kept if config.limit is None else _spread(kept, config.limit)


def _having(records: list[T], name: str, values: Sequence[str], file: str | None) -> list[T]:
    kept = [record for record in records if record.meta.get(name) in values]
    if records and not kept:
        known = sorted({record.meta[name] for record in records if name in record.meta})
        fix = suggestion(values[0] if values else "", known) if known else "name a key of 'meta'"
        problem = "no row has one of these values"
        key = f"dataset.where.{name}"
        raise DataError(problem, file=file, key=key, value=list(values), fix=fix)
    return kept


def _place(record: Question | Passage) -> float:
    """Place of a record's document between 0 and 1, the same for all of its rows."""
    name = f"{record.dataset}/{record.meta.get('group') or record.id}"
    digest = sha256(f"documents:{name}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _spread(records: Sequence[T], limit: int) -> list[T]:
    order = sorted(range(len(records)), key=lambda i: sha256(records[i].id.encode()).digest())
    return [records[i] for i in sorted(order[:limit])]
