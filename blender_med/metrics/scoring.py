"""Scores of candidates: every named metric on every candidate it applies to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.records import Candidate, Question, Score

Share = Callable[[float], None]
Pairs = Sequence[tuple[Question, Candidate]]
Values = Mapping[str, Sequence[float]]


class ModelScorer(Protocol):
    """A loaded model and the metrics it gives."""

    def use_references(self, references: Iterable[str]) -> None:
        """Learn what depends on all references of a run, such as how rare a token is."""
        ...

    def scores(
        self,
        candidates: Sequence[str],
        references: Sequence[str],
        names: Sequence[str],
        advance: Share | None = None,
    ) -> Mapping[str, list[float]]:
        """Values [n] of the metrics ``names``; ``advance`` is told shares that sum to 1."""
        ...


def score_candidates(
    questions: Mapping[str, Question],
    candidates: Iterable[Candidate],
    metrics: Sequence[str],
    scorer_of: Callable[[str], ModelScorer] | None = None,
    advance: Share | None = None,
) -> Iterator[Score]:
    """Scores of ``candidates``, metric by metric, each in the order of the candidates.

    A metric applies to the candidates of its task whose question has a reference (long) or a
    known right option (mcq); others get no score. The candidates are held in memory: give one
    shard at a time.

    Args:
        questions: Questions by id.
        candidates: What is scored.
        metrics: Names of metrics.
        scorer_of: Gives the scorer for a ``MetricSpec.model``; asked only where a metric of that
            model meets a candidate it applies to.
        advance: Told the share of the models' work that is done; the shares sum to 1.

    Raises:
        ConfigError: A metric name is not known.
        KeyError: A candidate's question is not among ``questions``.
        ValueError: A metric needs a model and ``scorer_of`` is not given.
    """
    pairs = [(questions[candidate.question_id], candidate) for candidate in candidates]
    texts = [(q, c) for q, c in pairs if q.task == "long" and q.reference is not None]
    choices = [(q, c) for q, c in pairs if q.task == "mcq" and q.answer_index is not None]
    for name in metrics:
        METRICS.check(name, key="metrics")
    from_models = _model_values(texts, metrics, scorer_of, advance)
    for name in metrics:
        chosen = texts if METRIC_SPECS[name].task == "long" else choices
        values = from_models[name] if name in from_models else _values(name, chosen)
        for (_, candidate), value in zip(chosen, values, strict=True):
            yield Score(candidate.question_id, candidate.expert, candidate.sample, name, value)


def _values(name: str, pairs: Pairs) -> Sequence[float]:
    function = METRICS.load(name)
    if METRIC_SPECS[name].task == "mcq":
        return function([c.choice_index for _, c in pairs], [q.answer_index for q, _ in pairs])
    return function([c.text for _, c in pairs], [_reference(q) for q, _ in pairs])


def _model_values(
    pairs: Pairs,
    metrics: Sequence[str],
    scorer_of: Callable[[str], ModelScorer] | None,
    advance: Share | None,
) -> Values:
    by_model = model_metrics(metrics)
    if not pairs:
        return {name: () for names in by_model.values() for name in names}
    candidates, references = [c.text for _, c in pairs], [_reference(q) for q, _ in pairs]
    tell = advance and (lambda share: advance(share / len(by_model)))
    values: dict[str, Sequence[float]] = {}
    for model, names in by_model.items():
        if scorer_of is None:
            raise ValueError(f"'{names[0]}' needs a model")
        values.update(scorer_of(model).scores(candidates, references, names, tell))
    return values


def model_metrics(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Those of ``metrics`` that need a model, by the model's name."""
    by_model: dict[str, list[str]] = {}
    for name in metrics:
        model = METRIC_SPECS[name].model
        if model is not None:
            by_model.setdefault(model, []).append(name)
    return by_model


def _reference(question: Question) -> str:
    return question.reference or ""
