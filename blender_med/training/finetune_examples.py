"""The examples of a finetuning job: a weighted mix of data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from blender_med.data.loading import load_dataset_config
from blender_med.data.tuning import HeldOut, TuningExample, tuning_examples
from blender_med.errors import ConfigError, DataError
from blender_med.records import Question
from blender_med.store.manifest import read_manifest
from blender_med.store.shards import read_parts
from blender_med.training.examples import TrainingExamples
from blender_med.training.expert_config import TuningData, TuningSource


def load_tuning_examples(
    data: TuningData, seed: int, asked: Iterable[Question] | None = None
) -> TrainingExamples[TuningExample]:
    """Examples of the data that a recipe names.

    Args:
        data: The mix.
        seed: Of the job; makes dev splits where there are none.
        asked: Questions that may not be learned; None: those of the run ``data.hold_out``.

    Raises:
        ConfigError: ``hold_out`` is no run, or has not prepared its questions.
        DataError: A data set is missing or of another type, or nothing is left to learn from.
    """
    held_out = HeldOut(_run_questions(data.hold_out) if asked is None else asked)
    train: list[TuningExample] = []
    dev: list[TuningExample] = []
    dropped: Counter[str] = Counter()
    for place, source in enumerate(data.sources):
        own = tuning_examples(
            load_dataset_config(source),
            weight=source.weight,
            held_out=held_out,
            seed=seed,
        )
        dropped.update(own.dropped)
        if not own.train:
            raise _nothing_left(source, place, own.dropped)
        train, dev = train + own.train, dev + own.dev
    if not dev:
        fix = "add a data set with dev questions, or one with more documents"
        raise DataError("no dev question to choose the best weights by", value=0, fix=fix)
    names = ", ".join(map(_described, data.sources))
    return TrainingExamples(train, _spread(dev), dict(dropped), names)


def _spread(dev: list[TuningExample]) -> list[TuningExample]:
    """Dev questions in an order that mixes the sources, since only the first ones are used."""
    from hashlib import sha256

    return sorted(dev, key=lambda e: sha256(e.question_id.encode("utf-8", "replace")).digest())


def _run_questions(run: str | None) -> Iterable[Question]:
    if run is None:
        return ()
    folder = Path(run) / "prepare"
    if read_manifest(folder) is None:
        fix = "name a run directory whose stage prepare is finished, such as runs/specialists"
        raise ConfigError("no such run", key="data.hold_out", value=run, fix=fix)
    return read_parts(folder, Question)


def _nothing_left(source: TuningSource, place: int, dropped: Mapping[str, int]) -> DataError:
    reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    problem = f"nothing to learn from ({reasons})"
    fix = "leave documents over: give the data set of the pipeline 'documents: 0.5'"
    key = f"data.sources.{place}"
    return DataError(problem, key=key, file=source.path, value=source.type, fix=fix)


def _described(source: TuningSource) -> str:
    chosen = ", ".join(f"{key} {'/'.join(own)}" for key, own in source.where.items())
    return f"{source.type}" + (f" ({chosen})" if chosen else "")
