"""Ranks graded answers with every ranker and compares the orders with the grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blender_med.data.config import DatasetConfig
from blender_med.data.graded import GradedCandidates
from blender_med.data.liveqa_med import METRIC, LiveQAMed, load_grades
from blender_med.data.loading import load_dataset_config
from blender_med.data.pairs import RankingExample, labelled_examples
from blender_med.errors import ConfigError, DataError
from blender_med.metrics.ranking import RANKING_METRICS
from blender_med.metrics.statistics import holm
from blender_med.rankers import RANKERS
from blender_med.rankers.config import AppliedBM25, RankerToApply
from blender_med.records import Question
from blender_med.stages.comparison.estimates import Resampling, mean_estimates
from blender_med.stages.comparison.rows import Estimate
from blender_med.stages.grades.config import Asked, GradedRecipe
from blender_med.training.config import RankerJob

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradeRow:
    """One figure of one ranker over the questions of a block.

    Attributes:
        answers: Where the graded answers come from: ``medquad`` or ``nist``.
        asked: What the ranker read as the question.
        ranker: Name of the ranker.
        learned: Whether it learned from the grades of the other questions.
        n: Questions with answers of different grades.
        candidates: Their graded answers.
        metric: Name of the figure.
        estimate: Mean over the questions, with the comparison to the baseline.
    """

    answers: str
    asked: str
    ranker: str
    learned: bool
    n: int
    candidates: int
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """Figures of one ranker on one question; a figure is NaN where it is not defined."""

    answers: str
    asked: str
    question_id: str
    ranker: str
    candidates: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GradeReport:
    """Result of a study: figures by block and ranker, those of each question, what was dropped."""

    rows: list[GradeRow]
    questions: list[QuestionRow]
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    """Graded questions of one origin of answers and one wording of the question."""

    answers: str
    asked: Asked
    examples: list[RankingExample]


# Scores of each example's candidates, by name of the ranker.
BlockScores = dict[str, list[Floats]]


def grade_rankers(recipe: GradedRecipe) -> GradeReport:
    """Rank the graded answers with every ranker of a recipe.

    Raises:
        ConfigError: ``grades.path`` or ``grades.qrels`` are missing where they are needed.
        DataError: The files are not those of LiveQA-Med, or no question has different grades.
    """
    blocks, dropped = graded_blocks(recipe)
    scores: list[BlockScores] = [{} for _ in blocks]
    for ranker in recipe.rankers:
        for own, values in zip(scores, _ranked(ranker, blocks), strict=True):
            own[ranker.method] = values
    jobs = recipe.jobs()
    for job in jobs:
        for own, values in zip(scores, _learned(job, blocks, recipe), strict=True):
            own[job.name] = values
    learned = {job.name for job in jobs}
    questions = [list(_question_rows(*pair)) for pair in zip(blocks, scores, strict=True)]
    rows = [
        row
        for block, own in zip(blocks, questions, strict=True)
        for row in _grade_rows(block, own, recipe, learned)
    ]
    return GradeReport(rows, [row for own in questions for row in own], dropped)


def graded_blocks(recipe: GradedRecipe) -> tuple[list[Block], dict[str, int]]:
    """Blocks of a recipe, and what was left out of them by reason; see :func:`grade_rankers`."""
    questions, graded = _loaded(recipe)
    blocks: list[Block] = []
    dropped: dict[str, int] = {"judgements quarantined": len(graded.quarantined)}
    for answers in recipe.grades.answers:
        candidates = [c for c in graded.candidates if c.expert == answers]
        scores = [s for s in graded.scores if s.expert == answers]
        for asked in recipe.grades.asked:
            worded = [_worded(question, asked) for question in questions]
            examples, reasons = labelled_examples(worded, candidates, scores, [METRIC])
            if not examples:
                fix = "name the whole data set, and qrels for answers from MedQuAD"
                problem = "no question has answers of different grades"
                raise DataError(problem, file=recipe.grades.path, value=answers, fix=fix)
            blocks.append(Block(answers, asked, examples))
        dropped |= {f"{answers}: {reason}": count for reason, count in reasons.items()}
    return blocks, dropped


def _loaded(recipe: GradedRecipe) -> tuple[Sequence[Question], GradedCandidates]:
    grades = recipe.grades
    needed = {"path": grades.path} | (
        {"qrels": grades.qrels} if "medquad" in grades.answers else {}
    )
    for key, value in needed.items():
        if value is None:
            fix = f"--set grades.{key}=FOLDER (LiveQA-Med's test set, MedQuAD's liveqa_med_qrels)"
            raise ConfigError("the graded answers are not on the Hub", key=f"grades.{key}", fix=fix)
    config = DatasetConfig(type=LiveQAMed.name, path=grades.path)
    return load_dataset_config(config), load_grades(str(grades.path), grades.qrels)


def _worded(question: Question, asked: Asked) -> Question:
    """The question in that wording; as it is where it has none."""
    return replace(question, question=question.meta.get(asked) or question.question)


def _ranked(ranker: RankerToApply, blocks: Sequence[Block]) -> Iterator[list[Floats]]:
    """Scores of a ranker for each block; the answers of a block are BM25's collection."""
    loaded = None if isinstance(ranker, AppliedBM25) else ranker.load()
    for block in blocks:
        own = loaded
        if isinstance(ranker, AppliedBM25):
            texts = (text for example in block.examples for text in example.candidates)
            own = ranker.load(corpus=texts)
        yield _scores(own, block.examples, ranker.rank_settings())


def _scores(
    ranker: Any, examples: Sequence[RankingExample], settings: Mapping[str, Any]
) -> list[Floats]:
    rankings = ranker.rank(
        [e.source for e in examples], [e.candidates for e in examples], **settings
    )
    return [np.array(ranking.scores) for ranking in rankings]


def question_folds(blocks: Sequence[Block], folds: int, seed: int) -> dict[str, int]:
    """Fold of each question, the same in every block.

    Raises:
        ConfigError: There are fewer questions than folds.
    """
    names = sorted({example.question_id for block in blocks for example in block.examples})
    if len(names) < folds:
        fix = f"write at most {len(names)}"
        raise ConfigError("fewer graded questions than folds", key="folds", value=folds, fix=fix)
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place]: position % folds for position, place in enumerate(order)}


def _learned(job: RankerJob, blocks: Sequence[Block], recipe: GradedRecipe) -> list[list[Floats]]:
    """Scores of a ranker that learned from the other folds of the same wording."""
    folds = question_folds(blocks, recipe.folds, recipe.seed)
    scores: list[dict[str, Floats]] = [{} for _ in blocks]
    for asked in recipe.grades.asked:
        same = [i for i, block in enumerate(blocks) if block.asked == asked]
        examples = [example for i in same for example in blocks[i].examples]
        for fold in range(recipe.folds):
            folder = recipe.folder / "learned" / job.name / asked / str(fold)
            ranker = _trained(job, examples, folds, fold, recipe.folds, folder)
            for i in same:
                held_out = [e for e in blocks[i].examples if folds[e.question_id] == fold]
                names = [example.question_id for example in held_out]
                scores[i] |= dict(zip(names, _scores(ranker, held_out, {}), strict=True))
    return [
        [own[example.question_id] for example in block.examples]
        for block, own in zip(blocks, scores, strict=True)
    ]


def _trained(
    job: RankerJob,
    examples: Sequence[RankingExample],
    folds: Mapping[str, int],
    fold: int,
    n_folds: int,
    folder: Path,
) -> Any:
    """The ranker that saw neither the fold nor, but for choosing its best step, the next one."""
    from blender_med.models import torch_device
    from blender_med.training.examples import TrainingExamples
    from blender_med.training.ranker_job import train_ranker

    dev = (fold + 1) % n_folds
    train = [e for e in examples if folds[e.question_id] not in (fold, dev)]
    chosen_by = [e for e in examples if folds[e.question_id] == dev]
    material = TrainingExamples(train, chosen_by, {}, "human grades of LiveQA-Med")
    train_ranker(job, material, folder)
    return RANKERS.load(job.ranker.type).from_pretrained(folder, device=torch_device(None))


def _question_rows(block: Block, scores: BlockScores) -> Iterator[QuestionRow]:
    for ranker, values in scores.items():
        for example, own in zip(block.examples, values, strict=True):
            grades = example.labels[:, 0]
            figures = {name: figure(own, grades) for name, figure in RANKING_METRICS.items()}
            yield QuestionRow(
                block.answers, block.asked, example.question_id, ranker, len(own), figures
            )


def _grade_rows(
    block: Block, questions: Sequence[QuestionRow], recipe: GradedRecipe, learned: set[str]
) -> Iterator[GradeRow]:
    names = list(dict.fromkeys(row.ranker for row in questions))
    for metric in RANKING_METRICS:
        values = {
            name: np.array([row.figures[metric] for row in questions if row.ranker == name])
            for name in names
        }
        for name, estimate in _estimates(values, recipe).items():
            yield GradeRow(
                block.answers, block.asked, name, name in learned, len(block.examples),
                sum(len(example.candidates) for example in block.examples), metric, estimate,
            )  # fmt: skip


def _estimates(values: Mapping[str, Floats], recipe: GradedRecipe) -> dict[str, Estimate]:
    """Means with their intervals; p adjusted over the rankers that are compared."""
    resampling = Resampling(recipe.resamples, recipe.seed)
    estimates = mean_estimates(values, resampling, groups=None, base=recipe.baseline)
    compared = {name: e.p for name, e in estimates.items() if e.p is not None}
    for name, p in zip(compared, holm(list(compared.values())), strict=True):
        estimates[name] = replace(estimates[name], p_holm=p)
    return estimates
