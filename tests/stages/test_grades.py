"""Rankers against human grades: figures, intervals, folds that never overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.base import RankedCandidates
from blender_med.reports.grades import grade_table, write_grades
from blender_med.stages.grades.config import load_graded_recipe
from blender_med.stages.grades.study import GradeReport, grade_rankers

TOPICS = ["asthma", "gout", "measles", "anemia", "scurvy", "rickets", "mumps", "ulcer"]


def _question(number: int, topic: str) -> str:
    answer = "<ReferenceAnswer><ANSWER>With care.</ANSWER></ReferenceAnswer>"
    return (
        f'<NLM-QUESTION qid="TQ{number}">'
        "<Original-Question><MESSAGE>I have it, help</MESSAGE></Original-Question>"
        f"<NLM-Summary>How is {topic} treated?</NLM-Summary>"
        f"<ReferenceAnswers>{answer}</ReferenceAnswers></NLM-QUESTION>"
    )


def _judgements(number: int, topic: str) -> str:
    """Grades grow with the words that an answer shares with the summary."""
    answers = {1: "Rest at home.", 2: "Rest with it, treated or not.", 4: f"{topic} is treated."}
    return "".join(f"{number} {grade} {text}\n" for grade, text in answers.items())


@pytest.fixture
def liveqa(tmp_path: Path) -> Path:
    folder = tmp_path / "liveqa"
    folder.mkdir()
    asked = "".join(_question(i, topic) for i, topic in enumerate(TOPICS, 1))
    root = "LiveQA2017-Medical-Test-Set-Full"
    (folder / "Questions-w-summaries.xml").write_text(f"<{root}>{asked}</{root}>")
    graded = "".join(_judgements(i, topic) for i, topic in enumerate(TOPICS, 1))
    (folder / "test-qrels-NIST-24.txt").write_text(graded + "1 -2 Off topic.\n")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, liveqa: Path) -> Any:
    def write(**changes: Any) -> Path:
        tree = {
            "name": "demo",
            "output_dir": str(tmp_path / "runs"),
            "grades": {"path": str(liveqa), "answers": ["nist"], "asked": ["question", "summary"]},
            "rankers": ["bm25"],
            "resamples": 200,
        }
        file = tmp_path / "demo.yaml"
        file.write_text(yaml.safe_dump(tree | changes))
        return file

    return write


def _figure(report: GradeReport, asked: str, ranker: str, metric: str) -> Any:
    [row] = [
        row for row in report.rows if (row.asked, row.ranker, row.metric) == (asked, ranker, metric)
    ]
    return row


def test_words_of_the_summary_order_the_answers_and_those_of_the_message_do_not(recipe) -> None:
    report = grade_rankers(load_graded_recipe(recipe()))
    best = _figure(report, "summary", "bm25", "pairwise_accuracy")
    assert (best.estimate.value, best.estimate.low, best.estimate.high) == (1, 1, 1)
    assert (best.n, best.candidates, best.learned) == (8, 24, False)
    assert best.estimate.delta is None
    blind = _figure(report, "question", "bm25", "pairwise_accuracy")
    assert blind.estimate.value == 0.5
    assert _figure(report, "question", "bm25", "spearman").estimate.value == 0
    assert report.dropped["judgements quarantined"] == 1


class _Scripted:
    """Orders candidates by length, to be compared with BM25."""

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def rank(self, sources: Any, candidates: Any, **settings: Any) -> list[RankedCandidates]:
        scores = [tuple(self.sign * float(len(text)) for text in group) for group in candidates]
        return [RankedCandidates(own, tuple(range(len(own)))) for own in scores]


def test_every_ranker_is_compared_with_the_baseline_question_by_question(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blender_med.rankers.similarity import EmbeddingRanker

    monkeypatch.setattr(EmbeddingRanker, "from_pretrained", lambda *a, **k: _Scripted(-1))
    rankers = ["bm25", {"type": "embedding", "name": "short", "model": "some/encoder"}]
    report = grade_rankers(load_graded_recipe(recipe(rankers=rankers)))
    own = _figure(report, "summary", "short", "pairwise_accuracy").estimate
    questions = [r for r in report.questions if r.asked == "summary" and r.ranker == "short"]
    values = [row.figures["pairwise_accuracy"] for row in questions]
    assert own.value == pytest.approx(np.mean(values))
    assert own.delta == pytest.approx(np.mean(values) - 1)
    assert own.p_holm is not None and own.p_holm < 0.05
    assert own.low <= own.value <= own.high


JOB = {
    "name": "tiny",
    "labels": ["bertscore_f1"],
    "ranker": {"type": "simcls", "backbone": "some/encoder"},
}


def test_a_learned_ranker_never_saw_the_question_it_is_tested_on(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blender_med.rankers.simcls import SimCLS
    from blender_med.training import ranker_job as training

    seen: dict[Path, set[str]] = {}
    tested: list[tuple[Path, int]] = []

    def train(job: Any, examples: Any, folder: Path, **settings: Any) -> bool:
        assert job.labels == ("human_grade",)
        train_ids = {e.question_id for e in examples.train}
        dev_ids = {e.question_id for e in examples.dev}
        assert train_ids and dev_ids and not train_ids & dev_ids
        seen[folder] = train_ids | dev_ids
        return True

    class Loaded(_Scripted):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

        def rank(self, sources: Any, candidates: Any, **settings: Any) -> list[RankedCandidates]:
            tested.append((self.folder, len(sources)))
            for group in candidates:
                topic = next(text for text in group if "treated." in text).split()[0]
                assert f"liveqa_med/TQ{TOPICS.index(topic) + 1}" not in seen[self.folder]
            return super().rank(sources, candidates)

    monkeypatch.setattr(training, "train_ranker", train)
    monkeypatch.setattr(SimCLS, "from_pretrained", lambda folder, **k: Loaded(folder))
    opened = load_graded_recipe(recipe(learned=[JOB], folds=4))
    report = grade_rankers(opened)
    assert len(seen) == 2 * 4 and all(folder.is_relative_to(opened.folder) for folder in seen)
    assert sum(count for _, count in tested) == 2 * len(TOPICS)
    assert _figure(report, "summary", "tiny", "ndcg").learned
    names = {row.question_id for row in report.questions if row.ranker == "tiny"}
    assert len(names) == len(TOPICS)


def test_tables_hold_a_row_per_figure_and_per_question(recipe, tmp_path: Path) -> None:
    report = grade_rankers(load_graded_recipe(recipe()))
    grades, questions = write_grades(tmp_path / "out", report)
    lines = grades.read_text().splitlines()
    assert lines[0].startswith("answers,asked,ranker,learned,n,candidates,metric,value,low,high")
    assert len(lines) == 1 + 2 * 5
    assert len(questions.read_text().splitlines()) == 1 + 2 * 8
    assert grade_table(report).row_count == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"baseline": "nothing"}, "no ranker is called 'nothing'"),
        ({"rankers": ["bm25", "bm25"]}, "two rankers are called 'bm25'"),
        ({"rankers": ["bm26"]}, "bm25"),
        ({"learned": [JOB | {"name": "bm25"}]}, "two rankers have one name"),
        ({"learned": ["no-such-recipe"]}, "no-such-recipe"),
        ({"rankers": ["bm25", {"type": "simcls", "trained": "x"}]}, "no stage train-ranker"),
        ({"rankers": ["bm25", {"type": "simcls", "model": "/no/where"}]}, "no such model"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(recipe, changes, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_graded_recipe(recipe(**changes))


def test_the_data_must_be_named_and_graded(recipe, liveqa: Path) -> None:
    with pytest.raises(ConfigError, match=r"grades\.path"):
        grade_rankers(load_graded_recipe(recipe(grades={"answers": ["nist"]})))
    with pytest.raises(ConfigError, match=r"grades\.qrels"):
        grade_rankers(load_graded_recipe(recipe(grades={"path": str(liveqa)})))
    (liveqa / "test-qrels-NIST-24.txt").write_text("1 3 One.\n1 3 Two.\n")
    with pytest.raises(DataError, match="different grades"):
        grade_rankers(load_graded_recipe(recipe()))


def test_more_folds_than_questions_is_an_error(recipe) -> None:
    opened = load_graded_recipe(recipe(learned=[JOB], folds=9))
    with pytest.raises(ConfigError, match="fewer graded questions than folds"):
        grade_rankers(opened)


@pytest.mark.slow
def test_bm25_agrees_with_people_on_the_real_grades(shared_data: Path, recipe) -> None:
    grades = {
        "path": str(shared_data / "liveqa_med"),
        "qrels": str(shared_data / "medquad" / "liveqa_med_qrels"),
        "asked": ["summary"],
    }
    report = grade_rankers(load_graded_recipe(recipe(grades=grades)))
    rows = {r.answers: r for r in report.rows if r.metric == "pairwise_accuracy"}
    assert {answers: row.n for answers, row in rows.items()} == {"medquad": 37, "nist": 65}
    assert all(row.estimate.low > 0.5 for row in rows.values())
