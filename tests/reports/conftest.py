"""A study with nasty texts everywhere, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from blender_med.metrics.scoring import score_candidates
from blender_med.records import Answer, Candidate, Question, Ranking, Score
from blender_med.reports.page.build import write_page
from blender_med.stages.base import Run
from blender_med.stages.comparison import Comparison, Resampling, compare, diagnose
from blender_med.stages.config import PipelineRecipe
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board
from blender_med.stages.methods.board import build_boards

ATTACKS = (
    "<script>window.attacked = 1</script>",
    '"><img src=x onerror="window.attacked = 1">',
    "</script><script>window.attacked = 1</script>",
    "' onmouseover='window.attacked = 1' \ud800 \0 \u2028",
)
_MEDICAL = """the a of in patients with fever cough treatment dose daily risk heart liver may cause
signs symptoms doctor disease chronic acute infection blood pressure drug therapy surgery often
rare children adults test imaging diagnosis relief pain severe mild weeks days care"""
WORDS = np.array(_MEDICAL.split() + [f"term{i}" for i in range(4000)])


def prose(draw: np.random.Generator, words: int) -> str:
    """Words as unevenly frequent as in real text."""
    return " ".join(WORDS[np.minimum(draw.zipf(1.3, words) - 1, len(WORDS) - 1)])


_SYLLABLES = """car di o my pa thy ne phro sis he pa to pul mo na ry syn drome cer vi cal gas tro
en te ri tis hy po ten sion glu co mel li tus an gi plas ty der ma lep ra chon dro bra dy ta chy lym
ph ade no car ci no ma ure thra ost eo po ro scle mu sal"""


def _rare_words(count: int) -> list[str]:
    """Words of two to five syllables, such as medicine is full of."""
    draw = np.random.default_rng(1)
    return ["".join(draw.choice(_SYLLABLES.split(), draw.integers(2, 6))) for _ in range(count)]


VOCABULARY = np.array(_MEDICAL.split() + _rare_words(12_000))
_FREQUENCY = (np.arange(len(VOCABULARY)) + 2.7) ** -0.9  # near the law of Zipf and Mandelbrot


def fresh_prose(draw: np.random.Generator, words: int) -> str:
    """Sentences that never come again; they compress no better than English does."""
    chosen = draw.choice(VOCABULARY, words, p=_FREQUENCY / _FREQUENCY.sum())
    ends = set(range(11, words, 12))
    return " ".join(w + "." * (i in ends) for i, w in enumerate(chosen.tolist()))


Prose = Callable[[np.random.Generator, int], str]


class Study:
    """Long and multiple-choice questions, two experts, one ranker, one fuser; attacks inside."""

    def __init__(self, n: int, words: int = 12, text: Prose = prose) -> None:
        draw = np.random.default_rng(0)
        self._text, self._draw = text, draw
        self.questions: list[Question] = []
        self.candidates: list[Candidate] = []
        self.answers: list[Answer] = []
        self.rankings: list[Ranking] = []
        for i in range(n):
            attack = ATTACKS[i % 4] if i < 8 else ""
            split = "dev" if i % 4 == 3 else "test"
            meta = {"subject": ATTACKS[1] if i % 2 else "lung", "specialty": f"s{i % 3}"}
            reference = text(draw, words)
            self._long(i, split, f"{attack} {text(draw, 8)}", reference, meta)
            options = ("red", f"blue {attack}")
            self.questions.append(
                Question(
                    f"m{i}", "sample", split, "mcq", "Which?", None, options, i % 2, None, meta
                )
            )
            for name in ("good", "poor"):
                right = i % 2 if name == "good" or i % 3 else 1 - i % 2
                self.candidates.append(Candidate(f"m{i}", name, 0, "AB"[right], right))

    def _long(self, i: int, split: str, asked: str, reference: str, meta: dict[str, str]) -> None:
        known = {"context": "Some context.", "reference": reference, "meta": meta}
        self.questions.append(Question(f"l{i}", "sample", split, "long", asked, **known))
        texts = {"good": f"{reference} {asked}", "poor": asked}
        if self._text is not prose:  # as long as the reference, and as new
            texts = {name: self._text(self._draw, len(reference.split())) for name in texts}
        for name, text in texts.items():
            self.candidates.append(
                Candidate(f"l{i}", name, 0, text, prompt_tokens=9, completion_tokens=3, seconds=0.1)
            )
        keys = ("good#0", "poor#0")
        errs = i % 6 == 5
        sign, ranks = (-1, (2, 1)) if errs else (1, (1, 2))
        logits = ((0.0, 1.5 * sign), (-1.25 * sign, 0.0))
        scores = (1.5 * sign, -1.25 * sign)
        self.rankings.append(
            Ranking(f"l{i}", "pairranker", keys, scores, ranks, logits, comparisons=2)
        )
        chosen = {"candidate": keys[errs], "confidence": 0.5 + (i % 5) / 10, "tokens": 30}
        self.answers.append(
            Answer(f"l{i}", "pairranker", texts["poor" if errs else "good"], **chosen)
        )
        fused = f"{texts['good'].capitalize()}. Take Zelorfan 50 mg twice."
        held, loose = (s.strip() for s in fused.rsplit("Take", 1))
        flags = [["unsupported", "absent", "Take"], ["drug", "absent", "Zelorfan"]]
        support = [[held, [["good#0", 1, 0.9]], []], [f"Take {loose}", [], flags]]
        self.answers.append(
            Answer(f"l{i}", "genfuser", fused, support=json.dumps(support),
                   experts_used=("good", "poor"))
        )  # fmt: skip

    def comparison(self) -> Comparison:
        known = {q.id: q for q in self.questions}
        scores = list(score_candidates(known, self.candidates, ("rougeL", "correct")))
        scores += [
            Score(a.question_id, a.method, 0, "rougeL", 0.4)
            for a in self.answers
            if a.method == "genfuser"
        ]
        boards = build_boards(self.questions, self.candidates, scores)
        config = MethodSettings(seed=1, combining=("pairranker", "genfuser"))
        answers = [a for board in boards for a in answer_board(board, config)] + self.answers
        return compare(boards, answers, config, resamples=100)


def recipe() -> PipelineRecipe:
    tree: dict[str, Any] = {
        "name": "study",
        "description": f"A study {ATTACKS[0]}",
        "dataset": {"type": "jsonl", "path": "q.jsonl"},
        "experts": ["good", "poor"],
        "stages": ["prepare", "generate", "score", "evaluate", "report"],
    }
    return PipelineRecipe.model_validate(tree)


def write_study_page(study: Study, folder: Path) -> Path:
    """Write the page of a study; returns it."""
    run = Run(recipe(), (), folder)
    run.preview(study.questions)
    comparison = study.comparison()
    diagnosis = diagnose(comparison, Resampling(100), {})
    files = write_page(run, comparison, diagnosis, [], [], [], {"pairranker": study.rankings})
    return files[0]


@pytest.fixture(scope="session")
def attacks() -> tuple[str, ...]:
    """Texts that would run if they became markup."""
    return ATTACKS


@pytest.fixture(scope="session")
def comparison_of() -> Callable[[int], Comparison]:
    """Makes the comparison of a study of n questions of either kind."""
    return lambda n: Study(n).comparison()


@pytest.fixture(scope="session")
def write_page_of() -> Callable[..., Path]:
    """Writes the page of a study: number of questions, folder, words of an answer, of what kind,
    data sets by task.
    """

    def write(
        n: int,
        folder: Path,
        words: int = 12,
        text: Prose = prose,
        datasets: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:
        study = Study(n, words, text)
        study.questions = [
            replace(q, dataset=datasets.get(q.task, q.dataset)) for q in study.questions
        ]
        return write_study_page(study, folder)

    return write


@pytest.fixture(scope="session")
def realistic_text() -> Prose:
    """Makes texts as hard to compress as answers of a model."""
    return fresh_prose


@pytest.fixture(scope="session")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page of a small study with attacks in questions, answers, options and slices."""
    folder = tmp_path_factory.mktemp("study")
    refused = 'file,position,reason,content\r\nf,1,"no <script>x</script> answer",c\r\n'
    (folder / "prepare").mkdir()
    (folder / "prepare" / "quarantine.csv").write_text(refused)
    return write_study_page(Study(24), folder)
