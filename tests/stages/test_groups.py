"""Candidates read for some questions equal those read for all."""

from __future__ import annotations

import pytest

from blender_med.records import Candidate, Question
from blender_med.stages.groups import GeneratedCandidates, candidate_groups
from blender_med.store import shards
from blender_med.store.shards import part_path, write_part

QUESTIONS = [Question(f"q{i}", "d", "test", "long", "Why?") for i in range(10)]


def of(expert: str, numbers: range) -> list[Candidate]:
    return [Candidate(f"q{i}", expert, k, f"{expert} {i} {k}") for i in numbers for k in (1, 0)]


@pytest.fixture
def folder(tmp_path):
    """Two experts on ten questions, four to a shard."""
    for expert in ("b", "a-1"):
        for start in (0, 4, 8):
            own = range(start, min(start + 4, 10))
            name = f"{expert}-{start:07d}-{own.stop:07d}"
            write_part(part_path(tmp_path, name), of(expert, own), Candidate)
    return tmp_path


@pytest.mark.parametrize("places", [[], [0], [3, 4], [0, 9], [5, 6, 7], list(range(10))])
def test_groups_of_some_questions_are_those_of_all(folder, places) -> None:
    candidates = GeneratedCandidates(folder)
    every = candidate_groups(QUESTIONS, candidates)
    asked = [QUESTIONS[place] for place in places]
    found = candidates.groups(asked, places)
    assert found == [group for question in asked for group in every[question.id]]
    assert [c.key for group in found for c in group.candidates] == [
        "a-1#0", "a-1#1", "b#0", "b#1",
    ] * len(places)  # fmt: skip


def test_only_the_shards_of_these_questions_are_read(folder, monkeypatch) -> None:
    from blender_med.stages import groups

    read: list[str] = []

    def reading(path, record_type):
        read.append(path.name)
        return shards.read_part(path, record_type)

    monkeypatch.setattr(groups, "read_part", reading)
    GeneratedCandidates(folder).groups(QUESTIONS[4:8], [4, 5, 6, 7])
    assert read == ["part-a-1-0000004-0000008.parquet", "part-b-0000004-0000008.parquet"]


def test_a_shard_without_a_range_is_always_read(tmp_path) -> None:
    write_part(part_path(tmp_path, "file"), of("a", range(10)), Candidate)
    found = GeneratedCandidates(tmp_path).groups(QUESTIONS[7:9], [7, 8])
    assert [group.question.id for group in found] == ["q7", "q8"]
