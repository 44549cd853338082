"""Line-ups of candidates and their fusions."""

from __future__ import annotations

from blender_med.fusers.baselines import Concatenation
from blender_med.records import Candidate, Question
from blender_med.stages.fusing.lineup import fuse_lineups, line_up
from blender_med.stages.groups import Group


def group(name: str, *texts: str) -> Group:
    question = Question(name, "d", "test", "long", "Why?", reference="So.")
    return Group(question, tuple(Candidate(name, "a", i, text) for i, text in enumerate(texts)))


def test_progress_counts_the_questions_that_the_fuser_is_asked() -> None:
    groups = [group("p", "one.", "two.", "one."), group("q", " ", ""), group("r", "three.")]
    lineups = [line_up(own, None, 2) for own in groups]
    assert [len(lineup.shown) for lineup in lineups] == [2, 0, 1]
    done: list[int] = []
    fusions = fuse_lineups(Concatenation(), lineups, 2, advance=done.append)
    assert sum(done) == 2
    assert [fusion.outcome for fusion in fusions][1] == "no_candidate_text"
    assert "one." in fusions[0].text and "two." in fusions[0].text
