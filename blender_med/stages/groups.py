"""The candidates of each question, read for the questions that are wanted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple

from blender_med.records import Candidate, Question, R
from blender_med.stages.base import unit_range
from blender_med.store.shards import part_paths, read_part, read_parts


class Group(NamedTuple):
    """Candidates of one question under one protocol, in the order of the experts."""

    question: Question
    candidates: tuple[Candidate, ...]


def candidate_groups(
    questions: Iterable[Question], candidates: Iterable[Candidate]
) -> dict[str, list[Group]]:
    """Groups of each question by protocol; experts in order of first appearance, then samples.

    Candidates of other questions are passed over.
    """
    experts: dict[str, int] = {}
    found: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    known = {question.id: question for question in questions}
    for candidate in candidates:
        experts.setdefault(candidate.expert, len(experts))
        if candidate.question_id in known:
            found[candidate.question_id, candidate.protocol].append(candidate)
    groups: dict[str, list[Group]] = defaultdict(list)
    for (question_id, _), own in found.items():
        own.sort(key=lambda candidate: (experts[candidate.expert], candidate.sample))
        groups[question_id].append(Group(known[question_id], tuple(own)))
    return groups


class RangedParts(Generic[R]):
    """Shards of a stage that are named after the questions that they are about.

    Args:
        folder: Of the stage. Its shards are named ``START-STOP`` or ``NAME-START-STOP``, by the
            positions of the questions among all prepared ones, or else hold any.
        record_type: What the stage writes.
    """

    def __init__(self, folder: Path, record_type: type[R]) -> None:
        self._folder = folder
        self._record_type: type[R] = record_type
        by_range: dict[tuple[int, int], list[Path]] = defaultdict(list)
        for path in part_paths(folder):
            by_range[_answered(path)].append(path)
        ranges = sorted(by_range)
        self._starts, self._stops = [r[0] for r in ranges], [r[1] for r in ranges]
        self._paths = [by_range[r] for r in ranges]

    def __iter__(self) -> Iterator[R]:
        return read_parts(self._folder, self._record_type)

    def records(self, places: Sequence[int]) -> Iterator[R]:
        """Records of the shards about some questions; others may be among them.

        Args:
            places: Positions of the questions among all prepared ones, ascending.
        """
        for path in sorted(self._about(places)) if places else ():
            yield from read_part(path, self._record_type)

    def _about(self, places: Sequence[int]) -> Iterator[Path]:
        """Shards about one of the questions; ranges of one plan do not overlap."""
        first = bisect_right(self._stops, places[0])
        for own in self._paths[first : bisect_left(self._starts, places[-1] + 1)]:
            yield from own


class GeneratedCandidates(RangedParts[Candidate]):
    """What stage generate has written, read shard by shard.

    Args:
        folder: Of the stage.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Candidate)

    def groups(self, questions: Sequence[Question], places: Sequence[int]) -> list[Group]:
        """Groups of some questions, in their order; see :func:`candidate_groups`.

        Args:
            questions: The questions, [n].
            places: Their positions among all prepared questions, ascending, [n].
        """
        found = candidate_groups(questions, self.records(places))
        return [group for question in questions for group in found.get(question.id, ())]


def _answered(path: Path) -> tuple[int, int]:
    """Positions of the questions of a shard, from and below; of one without range, all."""
    try:
        own = unit_range("-" + path.stem.removeprefix("part-"))
    except ValueError:
        return 0, 1 << 62
    return own.start, own.stop
