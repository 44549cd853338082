"""The examples of a fuser's training job, from a finished run or a file of scored candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from blender_med.data.fusion import FusionExample, fusion_examples
from blender_med.errors import ConfigError, DataError
from blender_med.records import Candidate, Question, Ranking, Score
from blender_med.registry import suggestion
from blender_med.store.shards import read_parts
from blender_med.training.config import TrainingData
from blender_med.training.examples import (
    TrainingExamples,
    by_split,
    learned_questions,
    load_material,
)
from blender_med.training.fuser_config import ShownCandidates

Values = dict[tuple[str, str], float]


def load_fuser_examples(
    data: TrainingData, shown: ShownCandidates
) -> TrainingExamples[FusionExample]:
    """Examples of the data that a recipe names.

    Raises:
        ConfigError: The run is no run directory, or is not finished; a file has no ranker.
        DataError: The file is missing or of another type, there is no score of the metric or no
            ranking of the ranker, or no usable train or dev question is left.
    """
    if shown.metric is not None:
        material = load_material(data)
        values = metric_values(material.scores, shown.metric)
    else:
        if data.run is None:
            fix = "order the candidates of a file by a metric: set candidates.metric"
            key = "candidates.ranker"
            raise ConfigError("a file has no rankings", key=key, value=shown.ranker, fix=fix)
        material = load_material(data, ["rank"])
        values = ranker_values(read_parts(Path(data.run) / "rank", Ranking), str(shown.ranker))
    return fuser_examples(material.questions, material.candidates, values, source=material.source)


def fuser_examples(
    questions: Iterable[Question],
    candidates: Iterable[Candidate],
    values: Mapping[tuple[str, str], float],
    *,
    source: str,
) -> TrainingExamples[FusionExample]:
    """Examples of the train and of the dev questions; see :func:`fusion_examples`.

    Raises:
        DataError: No usable train or dev question is left.
    """
    learned = learned_questions(questions)
    examples, dropped = fusion_examples(learned.values(), candidates, values)
    need = "a reference and a candidate with a value"
    return by_split(learned, examples, dropped, source=source, need=need)


def metric_values(scores: Iterable[Score], metric: str) -> Values:
    """Values of a metric by question and candidate key.

    Raises:
        DataError: There are scores, but none of this metric.
    """
    found: Values = {}
    known: set[str] = set()
    for score in scores:
        known.add(score.metric)
        if score.metric == metric:
            found[score.question_id, score.key] = score.value
    if known and not found:
        fix = suggestion(metric, sorted(known)) + "; or score the candidates with it"
        raise DataError("no candidate has a score of the metric", value=metric, fix=fix)
    return found


def ranker_values(rankings: Iterable[Ranking], ranker: str) -> Values:
    """Ranks of a ranker, negative so that higher is better, by question and candidate key.

    Raises:
        DataError: There are rankings, but none of this ranker.
    """
    found: Values = {}
    known: set[str] = set()
    for ranking in rankings:
        known.add(ranking.method)
        if ranking.method == ranker:
            pairs = zip(ranking.candidates, ranking.ranks, strict=True)
            found |= {(ranking.question_id, key): -float(rank) for key, rank in pairs}
    if known and not found:
        fix = suggestion(ranker, sorted(known))
        raise DataError("no candidate is ranked by the ranker", value=ranker, fix=fix)
    return found
