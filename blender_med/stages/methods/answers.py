"""Which methods apply to a board, and the answers that they give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from blender_med.errors import ConfigError
from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.records import Answer, FusedAnswer, FusedChoice, Ranking, Route
from blender_med.registry import suggestion
from blender_med.stages.gate_config import ROUTE_METHOD, ROUTED
from blender_med.stages.methods import METHOD_SPECS, METHODS, ORACLE, MethodSettings
from blender_med.stages.methods.board import Board
from blender_med.stages.methods.fused import fused_methods
from blender_med.stages.methods.gated import (
    fused_options,
    routed_answers,
    routed_options,
    routed_ranked,
)
from blender_med.stages.methods.ranked import ranker_confidence, top_ranked


def check_method(
    name: str,
    *,
    experts: Collection[str],
    metrics: Collection[str],
    others: Collection[str] = (),
    key: str = "methods",
) -> str:
    """Return ``name`` if it is a ranker or fuser, or a method with a fitting argument.

    Args:
        name: Such as ``mbr`` or ``expert:smollm2-135m``.
        experts: Experts of the run.
        metrics: Metrics that the run scores.
        others: Rankers of the run's stage rank, fusers of its stages fuse and gate.
        key: Recipe key, for the message.

    Raises:
        ConfigError: The method, the expert or the metric is not known, or stands where none may.
    """
    if name in others:
        return name
    base, colon, argument = name.partition(":")
    if base not in METHODS:
        fix = suggestion(name, [*METHODS, *others])
        raise ConfigError("unknown method", key=key, value=name, fix=fix)
    kind = METHOD_SPECS[base].argument
    known = {"expert": experts, "metric": [m for m in metrics if _is_directed(m)], None: ()}[kind]
    if kind == "metric" and not colon:
        return name
    if kind is None and colon:
        raise ConfigError("this method takes no argument", key=key, value=name, fix=f"write {base}")
    if kind is not None and argument not in known:
        problem = f"method '{base}' needs the name of one {kind} of this run after its colon"
        raise ConfigError(problem, key=key, value=name, fix=suggestion(argument, known))
    return name


def _is_directed(metric: str) -> bool:
    return metric in METRICS and METRIC_SPECS[metric].directed


def method_names(board: Board, settings: MethodSettings) -> list[str]:
    """All methods that apply to the board, in the order of the tables.

    Methods that learn from a split in which no answer is known are left out.
    """
    names = (name for base in METHOD_SPECS for name in _with_arguments(base, board, settings))
    return [name for name in names if _applies(name, board) and _is_fitted(name, board, settings)]


def _with_arguments(base: str, board: Board, settings: MethodSettings) -> list[str]:
    kind = METHOD_SPECS[base].argument
    if kind == "expert":
        return [f"{base}:{name}" for name in board.experts]
    if kind == "metric":
        primary = settings.primary(board.task)
        others = [m for m in board.scores if _is_directed(m) and m != primary]
        return [base] * (primary in board.scores) + [f"{base}:{metric}" for metric in others]
    return [base]


def _applies(name: str, board: Board) -> bool:
    base, _, argument = name.partition(":")
    spec = METHOD_SPECS[base]
    if board.task not in spec.tasks or board.protocol not in spec.protocols:
        return False
    if base == "self_consistency":
        sources = [board, *([board.sample] if board.sample else [])]
        return any(_most_samples(source, argument) > 1 for source in sources)
    return spec.argument != "expert" or argument in board.experts


def _most_samples(board: Board, expert: str) -> int:
    samples = Counter(c.question_id for c in board.candidates if c.expert == expert)
    return max(samples.values(), default=0)


def _is_fitted(name: str, board: Board, settings: MethodSettings) -> bool:
    splits = METHOD_SPECS[name.partition(":")[0]].fitted
    metric = settings.primary(board.task)
    return not splits or board.learned(
        ("fitted", splits, metric), lambda source: _has_values(source, splits, metric)
    )


def _has_values(board: Board, splits: Collection[str], metric: str) -> bool:
    """Whether a candidate of a question of these splits has a value."""
    values = board.scores.get(metric)
    return values is not None and any(
        not np.isnan(values[row])
        for index, question in enumerate(board.questions)
        if question.split in splits
        for row in board.rows(index)
    )


def answer_board(
    board: Board,
    settings: MethodSettings,
    methods: Sequence[str] | None = None,
    rankings: Mapping[str, Iterable[Ranking]] = MappingProxyType({}),
    fusions: Mapping[str, Iterable[FusedAnswer]] = MappingProxyType({}),
    choices: Mapping[str, Iterable[FusedChoice]] = MappingProxyType({}),
    routes: Mapping[str, Route] = MappingProxyType({}),
    learned_from: Mapping[str, Iterable[Ranking]] | None = None,
) -> Iterator[Answer]:
    """Answers of methods to the questions of a board, method by method.

    Args:
        board: The frozen candidates.
        settings: Seed, primary metrics, utility.
        methods: Names; those of another task, or of an expert that is not on the board, are
            passed over. None takes all that :func:`method_names` finds, every ranker and every
            fuser; upper bounds come last.
        rankings: Those of each ranker, by its name; they are read more than once.
        fusions: Those of each fuser and each guard, by the name of the method.
        choices: Those of each embedding fuser, by the name of the method.
        routes: Of stage route, by question.
        learned_from: The rankings of each ranker from which its confidence is learned, those of
            ``board.sample`` among them; None: ``rankings``.

    Raises:
        DataError: A method named here has nothing to learn from, or a metric was not scored.
        ConfigError: A name is not known.
    """
    others = [*rankings, *fusions, *choices, *_routed_names(settings, routes)]
    names = _all_names(board, settings, others) if methods is None else methods
    for name in names:
        base, _, argument = name.partition(":")
        if name in rankings:
            metric = settings.primary(board.task)
            known = (learned_from or rankings)[name]
            confidence = ranker_confidence(board, name, known, metric)
            yield from top_ranked(board, rankings[name], confidence)
        elif name in fusions:
            yield from fused_methods(board, fusions[name], rankings)
        elif base == ROUTE_METHOD and routes:
            ranked = rankings.get(argument, ())
            yield from (
                routed_ranked(board, name, ranked, routes)
                if argument
                else routed_answers(board, routes)
            )
        elif name in choices:
            yield from _gated(board, name, choices[name])
        elif METHODS.check(base, key="methods") and _applies(name, board):
            yield from METHODS.load(base)(board, settings, argument)


def _routed_names(settings: MethodSettings, routes: Mapping[str, Route]) -> list[str]:
    names = [name for name in settings.combining if name.partition(":")[0] == ROUTE_METHOD]
    return (names or [ROUTE_METHOD]) if routes else []


def _gated(board: Board, name: str, choices: Iterable[FusedChoice]) -> Iterator[Answer]:
    if name.endswith(ROUTED):
        return routed_options(board, name, choices)
    return fused_options(board, choices)


def _all_names(board: Board, settings: MethodSettings, others: Iterable[str]) -> list[str]:
    names = method_names(board, settings)
    bounds = [name for name in names if name.partition(":")[0] == ORACLE]
    return [*(name for name in names if name not in bounds), *others, *bounds]
