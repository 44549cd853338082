"""Stage evaluate range by range: the answers are those of the whole, and memory stays bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blender_med.errors import DataError
from blender_med.records import Answer, Candidate, FusedAnswer, Question, Ranking, Score
from blender_med.stages import board_ranges
from blender_med.stages.base import Run
from blender_med.stages.board_ranges import BoardRanges, Cursor
from blender_med.stages.methods import MethodSettings
from blender_med.stages.methods.answers import answer_board
from blender_med.store.shards import part_path, part_paths, read_part, read_parts, write_part


@pytest.fixture
def tree(ranker_tree: dict[str, Any], tiny_encoder) -> dict[str, Any]:
    """Long and exam questions, two rankers, a fuser with its guard, an embedding fuser."""
    *stages, evaluate, report = ranker_tree["stages"]
    stages[1] = stages[1] | {"shard_size": 8}
    fuser = {
        "name": "gated",
        "embedding_fuser": {"width": 4, "gate_input": "experts"},
        "training": {"epochs": 1, "batch_size": 8, "micro_batch_size": 8},
    }
    ranker_tree["stages"] = [
        *stages,
        {"type": "fuse", "fusers": [{"type": "concatenation", "guard": "ranker"}], "shard_size": 3},
        {"type": "embed", "question_encoder": None},
        {"type": "train-gate", "fusers": [fuser]},
        {"type": "gate", "fusers": [{"trained": "gated", "routed": True}], "shard_size": 5},
        {"type": evaluate, "faithfulness": {"model": str(tiny_encoder)}},
        report,
    ]
    return ranker_tree


def answers(run: Run) -> dict[tuple[str, str, str], Answer]:
    """Without the links of sentences: a model's last digits depend on its batches, so ties may."""
    stored = read_parts(run.stage_folder("evaluate"), Answer)
    rows = [replace(row, support=row.support and "linked") for row in stored]
    found = {(row.method, row.question_id, row.protocol): row for row in rows}
    assert len(found) == len(rows)
    return found


def tables(run: Run) -> dict[str, str]:
    files = run.stage_folder("report").glob("*.csv")
    return {file.name: file.read_text() for file in files if file.name != "answers.csv"}


def test_ranges_give_the_answers_of_the_whole(tree, go) -> None:
    run, _ = go(tree)
    whole, written = answers(run), tables(run)
    methods = {method for method, _, _ in whole}
    assert {"best_single", "constant", "weighted_vote", "stacking", "mbr", "oracle", "pairranker",
            "concatenation-guarded", "gated", "gated-routed"} <= methods  # fmt: skip
    assert len(part_paths(run.stage_folder("evaluate"))) == 3
    again, actions = go(tree, "stages.evaluate.shard_size=7")
    assert actions["evaluate"] == "skip"  # no matter of results
    (run.stage_folder("evaluate") / "manifest.json").unlink()
    (run.stage_folder("evaluate") / "progress.json").unlink()
    again, actions = go(tree, "stages.evaluate.shard_size=7")
    assert actions["evaluate"] == "run"
    names = [path.stem for path in part_paths(again.stage_folder("evaluate"))]
    assert "part-mcq-lm_eval-0000007-0000014" in names and len(names) == 18
    assert answers(again) == whole
    assert tables(again) == written


def test_a_range_is_made_again_alone(tree, go) -> None:
    run, _ = go(tree, "stages.evaluate.shard_size=7")
    whole = answers(run)
    folder = run.stage_folder("evaluate")
    (folder / "manifest.json").unlink()
    (folder / "part-long-generative-0000021-0000028.parquet").unlink()
    kept = folder / "part-long-generative-0000014-0000021.parquet"
    written = kept.stat().st_mtime_ns
    again, actions = go(tree, "stages.evaluate.shard_size=7")
    assert actions["evaluate"] == "resume" and kept.stat().st_mtime_ns == written
    assert answers(again) == whole


def test_methods_learn_from_a_sample_where_there_is_too_much(tree, go, monkeypatch) -> None:
    monkeypatch.setattr(board_ranges, "MOST_LEARNED", {"train": 3, "dev": 2, "test": 1})
    run, _ = go(tree, "stages.evaluate.shard_size=7")
    ranges = BoardRanges(run)
    for kind in (("long", "generative"), ("mcq", "lm_eval")):
        boards = [b for start in range(0, 40, 7)
                  for b in ranges.boards(kind, range(start, min(40, start + 7)))]  # fmt: skip
        asked = [q for q in run.questions if q.task == kind[0]]
        assert [q for board in boards for q in board.questions] == asked
        [sample] = {id(board.sample): board.sample for board in boards}.values()
        assert Counter(q.split for q in sample.questions) == {"train": 3, "dev": 2, "test": 1}
        of_train = [q for q in asked if q.split == "train"]
        places = [of_train.index(q) for q in sample.questions if q.split == "train"]
        assert places[-1] - places[0] >= len(of_train) // 2  # from all over the data
        learned = [board.learned("ids", lambda b: [q.id for q in b.questions]) for board in boards]
        assert all(own == [q.id for q in sample.questions] for own in learned)
    label = next(a.text for (m, _, _), a in answers(run).items() if m == "constant")
    gold = [q.options[q.answer_index] for q in sample.questions if q.split in ("train", "dev")]
    assert label in gold


def test_records_in_another_order_are_an_error(tree, go) -> None:
    run, _ = go(tree)
    path = part_paths(run.stage_folder("rank"))[0]
    rows = list(read_part(path, Ranking))
    write_part(path, rows[::-1], Ranking)
    with pytest.raises(DataError, match="stand in another order than the questions"):
        go(tree, "stages.evaluate.shard_size=2", "stages.evaluate.primary_long=chrf")


def test_a_cursor_stops_at_the_first_other_question() -> None:
    rows = [FusedAnswer(q, "m", "", "fused", None, (), "a#0") for q in "aabcd"]
    cursor = Cursor(rows, "fuser m")
    assert cursor.take({"x", "a"}) == rows[:2]
    assert cursor.take({"d"}) == []
    assert cursor.take({"b", "c"}) == rows[2:4]
    with pytest.raises(DataError, match="records of fuser m"):
        cursor.check_end()
    assert cursor.take({"d"}) == rows[4:]
    cursor.check_end()


def stored(folder: Path, questions: list[Question], candidates: list[Candidate], scores=()) -> Any:
    """A run whose experts answered what they were asked, in shards of all questions."""
    end = f"0000000-{len(questions):07d}"
    for expert in {c.expert for c in candidates}:
        own = [c for c in candidates if c.expert == expert]
        write_part(part_path(folder / "generate", f"{expert}-{end}"), own, Candidate)
    write_part(part_path(folder / "score", end), scores, Score)
    return SimpleNamespace(questions=questions, stage_folder=lambda stage: folder / stage)


def exam(i: int, options: tuple[str, ...], split: str = "dev") -> Question:
    return Question(f"q{i}", "d", split, "mcq", "?", options=options, answer_index=0)


def test_candidates_stand_in_the_order_of_the_experts_files(tmp_path) -> None:
    """Also where a route spared the first expert on the first question of a range."""
    questions = [exam(i, ("x", "y")) for i in range(4)]
    asked = [("q0", "b"), ("q1", "a"), ("q1", "b"), ("q2", "b"), ("q3", "a"), ("q3", "b")]
    candidates = [Candidate(q, e, 0, "x", 0, protocol="lm_eval") for q, e in asked]
    ranges = BoardRanges(stored(tmp_path, questions, candidates))
    kind = ("mcq", "lm_eval")
    [whole] = ranges.boards(kind, range(4))
    parts = [ranges.boards(kind, range(i, i + 2))[0] for i in (0, 2)]
    assert [c.key for part in parts for c in part.candidates] == [c.key for c in whole.candidates]
    assert [c.expert for c in whole.candidates] == ["b", "a", "b", "b", "a", "b"]


def test_a_range_without_scores_and_without_words_is_like_the_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(board_ranges, "MOST_LEARNED", {"train": 9, "dev": 9, "test": 0})
    words, others = ("yes", "no", "maybe"), ("red", "green")
    questions = [exam(0, words), exam(1, words), exam(2, others, "test"), exam(3, words, "test")]
    long = [Question(f"l{i}", "d", s, "long", "?") for i, s in enumerate(("dev", "test"))]
    candidates = [Candidate(q.id, "a", 0, "x", 0, protocol="lm_eval") for q in questions]
    candidates += [Candidate(q.id, "a", 0, "text") for q in long]
    scores = [Score("l0", "a", 0, "rougeL", 0.5)]
    run = stored(tmp_path, [*questions, *long], candidates, scores)
    ranges = BoardRanges(run)
    [board] = ranges.boards(("mcq", "lm_eval"), range(2, 4))
    assert board.labels == board.sample.labels == ("A", "B", "C")  # letters for the whole data set
    [board] = ranges.boards(("long", "generative"), range(5, 6))
    assert board.sample.scores["rougeL"].tolist() == [0.5]
    assert list(answer_board(board, MethodSettings(), ["oracle"])) == []
