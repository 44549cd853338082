"""Scores of candidates: every named metric on every candidate it applies to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.records import Candidate, Question, Score


def score_candidates(
    questions: Mapping[str, Question], candidates: Iterable[Candidate], metrics: Sequence[str]
) -> Iterator[Score]:
    """Scores of ``candidates``, metric by metric, each in the order of the candidates.

    A metric applies to the candidates of its task whose question has a reference (long) or a
    known right option (mcq); others get no score. The candidates are held in memory: give one
    shard at a time.

    Raises:
        ConfigError: A metric name is not known.
        KeyError: A candidate's question is not among ``questions``.
    """
    pairs = [(questions[candidate.question_id], candidate) for candidate in candidates]
    texts = [(q, c) for q, c in pairs if q.task == "long" and q.reference is not None]
    choices = [(q, c) for q, c in pairs if q.task == "mcq" and q.answer_index is not None]
    for name in metrics:
        function = METRICS.load(name, key="metrics")
        if METRIC_SPECS[name].task == "long":
            chosen, values = (
                texts,
                function([c.text for _, c in texts], [_reference(q) for q, _ in texts]),
            )
        else:
            chosen = choices
            values = function(
                [c.choice_index for _, c in chosen], [q.answer_index for q, _ in chosen]
            )
        for (_, candidate), value in zip(chosen, values, strict=True):
            yield Score(candidate.question_id, candidate.expert, candidate.sample, name, value)


def _reference(question: Question) -> str:
    return question.reference or ""
