"""One row per question: every candidate with its scores, and each method's answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from blender_med.fusers.support import SentenceSupport, read_support
from blender_med.stages.comparison.outcomes import Outcome
from blender_med.stages.comparison.rows import AnswerCell, AnswerRow, Block, CandidateCell
from blender_med.stages.comparison.slices import question_slices
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.board import Board, Floats, Ints


def answer_rows(outcomes: Sequence[Outcome], settings: MethodSettings) -> Iterator[AnswerRow]:
    """Rows of the questions of one board, in order."""
    board = outcomes[0].board
    primary = settings.primary(board.task)
    values = [o.correct() if board.task == "mcq" else o.values(primary) for o in outcomes]
    labels = [board.label_numbers(o.choice) for o in outcomes]
    gold = board.label_numbers(board.gold)
    for index, question in enumerate(board.questions):
        cells = (
            _answer_cell(outcome, index, own_values, own_labels)
            for outcome, own_values, own_labels in zip(outcomes, values, labels, strict=True)
            if outcome.answered[index]
        )
        yield AnswerRow(
            block=Block(board.dataset, question.split, board.task, board.protocol),
            question_id=question.id,
            question=question.question,
            context=question.context or "",
            options="\n".join(_options(board, index)),
            gold=_label(board, int(gold[index])),
            reference=question.reference or "",
            primary=primary,
            candidates=tuple(_candidate_cells(board, index)),
            answers=tuple(cells),
            slices=question_slices(question),
        )


def _options(board: Board, index: int) -> Iterator[str]:
    for number, option in enumerate(board.questions[index].options or ()):
        label = _label(board, board.option_label(index, number))
        yield option if label == option.strip().lower() else f"{label}. {option}"


def _label(board: Board, number: int) -> str:
    return board.labels[number] if number >= 0 else ""


def _candidate_cells(board: Board, index: int) -> Iterator[CandidateCell]:
    for row in board.rows(index):
        candidate = board.candidates[row]
        scores = {m: float(v[row]) for m, v in board.scores.items() if not np.isnan(v[row])}
        label = _label(board, board.option_label(index, int(board.choices[row])))
        yield CandidateCell(candidate.key, candidate.text, label, scores)


def _answer_cell(outcome: Outcome, index: int, values: Floats, labels: Ints) -> AnswerCell:
    row, confidence = int(outcome.row[index]), float(outcome.confidence[index])
    support = outcome.support.get(index)
    sentences = [] if support is None else read_support(support)
    return AnswerCell(
        method=outcome.method,
        candidate=outcome.board.candidates[row].key if row >= 0 else "",
        choice=_label(outcome.board, int(labels[index])),
        text=outcome.texts.get(index, ""),
        value=None if np.isnan(values[index]) else float(values[index]),
        confidence=None if np.isnan(confidence) else confidence,
        links="\n".join(_links(sentences)),
        flags="\n".join(_flags(sentences)),
        sentences=tuple(sentences),
    )


def _links(sentences: Sequence[SentenceSupport]) -> Iterator[str]:
    """``1: smollm2#0 sentence 2 (0.91)``; a sentence without support has a line without one."""
    for number, sentence in enumerate(sentences, start=1):
        own = (f"{k.candidate} sentence {k.sentence} ({k.support:.2f})" for k in sentence.links)
        yield f"{number}: {'; '.join(own)}"


def _flags(sentences: Sequence[SentenceSupport]) -> Iterator[str]:
    """``2: dose contradicted: 20 mg``."""
    for number, sentence in enumerate(sentences, start=1):
        for flag in sentence.flags:
            yield f"{number}: {flag.kind} {flag.reason}: {flag.text}"
