"""What is known of texts that are no candidate: their scores, and what they rest on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from blender_med.fusers.faithfulness import Embed, check_answers
from blender_med.fusers.support import support_json
from blender_med.metrics.scoring import score_candidates
from blender_med.records import Answer, Candidate, FusedAnswer, Question, Score
from blender_med.stages.config import FaithfulnessConfig
from blender_med.stages.methods.board import Board
from blender_med.stages.metric_models import MetricScorers

_LONGEST = 256  # tokens of a sentence; what all-MiniLM-L6-v2 was trained with
_TextKey = tuple[str, str]  # question id, text


def is_new(answer: Answer) -> bool:
    """Whether an answer has a text that is no candidate's."""
    return answer.candidate is None and bool(answer.text)


def with_scores(
    answers: Sequence[Answer],
    questions: Mapping[str, Question],
    metrics: Sequence[str],
    scorers: MetricScorers,
) -> list[Answer]:
    """The answers, new texts with their scores; equal texts of a question are scored once."""
    keys = list(dict.fromkeys((a.question_id, a.text) for a in answers if is_new(a)))
    texts = (Candidate(qid, str(number), 0, text) for number, (qid, text) in enumerate(keys))
    values: dict[_TextKey, dict[str, float]] = defaultdict(dict)
    for score in score_candidates(questions, texts, metrics, scorers.load):
        values[keys[int(score.expert)]][score.metric] = score.value
    return [replace(a, scores=values[a.question_id, a.text]) if is_new(a) else a for a in answers]


def with_support(
    answers: Sequence[Answer],
    board: Board,
    fusions: Mapping[_TextKey, FusedAnswer],
    embed: Embed,
) -> list[Answer]:
    """The answers, fused texts with what they rest on.

    A text is held against the candidates that its fuser read; where it read none (an embedding
    fuser reads hidden states) against all of its question.

    Args:
        answers: To the questions of the board.
        board: With the candidates.
        fusions: By method and question id.
        embed: Sentences to vectors of length 1.
    """
    texts = {(c.question_id, c.key): c.text for c in board.candidates}
    fused = [a for a in answers if is_new(a) and (a.method, a.question_id) in fusions]
    keys_of = _candidate_keys(board)
    shown = [
        fusions[a.method, a.question_id].shown or keys_of.get(a.question_id, ()) for a in fused
    ]
    checked = check_answers(
        [a.text for a in fused],
        [[texts[a.question_id, key] for key in keys] for a, keys in zip(fused, shown, strict=True)],
        embed,
    )
    found = {
        (a.method, a.question_id): support_json(sentences, keys)
        for a, sentences, keys in zip(fused, checked, shown, strict=True)
    }
    return [replace(a, support=found.get((a.method, a.question_id))) for a in answers]


def _candidate_keys(board: Board) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for candidate in board.candidates:
        found[candidate.question_id].append(candidate.key)
    return {question_id: tuple(keys) for question_id, keys in found.items()}


def answer_scores(answers: Iterable[Answer]) -> Iterator[Score]:
    """Scores of new texts, as :func:`~blender_med.stages.methods.board.build_boards` takes them."""
    for answer in answers:
        for metric, value in answer.scores.items():
            yield Score(answer.question_id, answer.method, 0, metric, value)


def sentence_embedder(config: FaithfulnessConfig) -> Embed:
    """Loads the sentence encoder.

    Raises:
        ConfigError: There is no such model.
        DataError: Weights are missing or damaged.
    """
    import numpy as np
    from transformers import AutoModel

    from blender_med.rankers.encoding import TextRows, unit_vectors
    from blender_med.rankers.loading import load_model
    from blender_med.rankers.weights import UNUSED_WEIGHTS

    model, tokenizer = load_model(
        AutoModel, config.model, "float32", config.device, config.revision, optional=UNUSED_WEIGHTS
    )
    longest = min(_LONGEST, model.config.max_position_embeddings)
    rows = TextRows(tokenizer, longest)

    def embed(texts: Sequence[str]) -> Any:
        made = rows(texts)
        return np.asarray(
            unit_vectors(model, made, pooling="mean", batch_tokens=config.batch_tokens)
        )

    return embed
