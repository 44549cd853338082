"""The board: questions of one task under one protocol, with their candidates and scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import DataError
from blender_med.metrics.choice import UNPARSED, are_word_labels, option_letter
from blender_med.records import Answer, Candidate, Protocol, Question, Score, Task

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_WORD_LABELS = ("yes", "no", "maybe")
_BoardKey = tuple[str, Task, Protocol]
T = TypeVar("T")


@dataclass(frozen=True)
class Board:
    """Frozen candidates of one data set, task and protocol; every method plays on it.

    Attributes:
        questions: Those with at least one candidate, in order, [n].
        candidates: Grouped by question, then by expert (in order of first appearance) and
            sample, [rows].
        offsets: Rows ``offsets[i]:offsets[i + 1]`` are the candidates of question i, [n + 1].
        scores: Values per metric, [rows]; NaN where a candidate has none.
        answer_scores: Values of texts that are no candidate, by (method, question id, metric).
        sample: Board of the same data set, task and protocol that methods learn from, where this
            one has a range of the questions only; None: they learn from this one.
        words: Whether all questions of the data set offer yes, no and maybe; None: all of these.
    """

    dataset: str
    task: Task
    protocol: Protocol
    questions: tuple[Question, ...]
    candidates: tuple[Candidate, ...]
    offsets: Ints
    scores: Mapping[str, Floats]
    answer_scores: Mapping[tuple[str, str, str], float]
    sample: Board | None = field(default=None, compare=False, repr=False)
    words: bool | None = field(default=None, compare=False, repr=False)
    _known: dict[Hashable, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def learned(self, key: Hashable, learn: Callable[[Board], T]) -> T:
        """What ``learn`` makes of the board that methods learn from; made once for each ``key``."""
        source = self.sample or self
        if key not in source._known:
            source._known[key] = learn(source)
        found: T = source._known[key]
        return found

    def rows(self, index: int) -> range:
        """Rows of the candidates of question ``index``."""
        return range(int(self.offsets[index]), int(self.offsets[index + 1]))

    def split_indices(self, split: str) -> Ints:
        """Indices of the questions of a split."""
        return np.flatnonzero([question.split == split for question in self.questions])

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, in order of first appearance; those of the sample come first."""
        known = self.sample.experts if self.sample else ()
        return tuple(dict.fromkeys([*known, *(c.expert for c in self.candidates)]))

    @cached_property
    def choices(self) -> Ints:
        """Option that each candidate chose, [rows]; -1 where none was parsed."""
        return _or_unparsed([candidate.choice_index for candidate in self.candidates])

    @cached_property
    def gold(self) -> Ints:
        """Right option of each question, [n]; -1 where unknown."""
        return _or_unparsed([question.answer_index for question in self.questions])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class labels: yes, no, maybe where every question offers these words, else letters."""
        offered = [question.options or () for question in self.questions]
        if self._has_words:
            words = {option.strip().lower() for options in offered for option in options}
            return tuple(word for word in _WORD_LABELS if word in words)
        return tuple(option_letter(i) for i in range(max(map(len, offered), default=0)))

    @cached_property
    def _has_words(self) -> bool:
        if self.words is not None:
            return self.words
        return all(are_word_labels(question.options or ()) for question in self.questions)

    @cached_property
    def _option_labels(self) -> Ints:
        """Label number of each option, [n, most options]; -1 beyond the last option."""
        table = np.full((len(self.questions), len(self.labels) + 1), UNPARSED)
        for i, question in enumerate(self.questions):
            for j, option in enumerate(question.options or ()):
                table[i, j] = self.labels.index(option.strip().lower()) if self._has_words else j
        return table

    def label_numbers(self, choices: Ints) -> Ints:
        """Numbers in ``labels`` of one choice per question, [n]; -1 stays -1."""
        inside = (choices >= 0) & (choices < self._option_labels.shape[1])
        return self._option_labels[np.arange(len(choices)), np.where(inside, choices, -1)]

    def option_label(self, index: int, choice: int) -> int:
        """Number in ``labels`` of an option of question ``index``; -1 where it has no such."""
        table = self._option_labels[index]
        return int(table[choice]) if 0 <= choice < len(table) else UNPARSED

    def option_of(self, index: int, label: int) -> int | None:
        """Option of question ``index`` that has label number ``label``; None where none has."""
        found = np.flatnonzero(self._option_labels[index] == label)
        return int(found[0]) if found.size else None

    def first_sample(self, expert: str) -> Ints:
        """Row of the first sample of ``expert`` for each question, [n]; -1 where there is none.

        Its number is 0 unless the samples of another protocol stand before it.
        """
        owners = np.repeat(np.arange(len(self.questions)), np.diff(self.offsets))
        own = np.flatnonzero([c.expert == expert for c in self.candidates])
        answered, first = np.unique(owners[own], return_index=True)
        found = np.full(len(self.questions), -1)
        found[answered] = own[first]
        return found

    def mean_score(self, expert: str, metric: str, split: str) -> tuple[float, int]:
        """Mean of ``metric`` over the first samples of ``expert`` in a split, and their number."""
        picked = self.first_sample(expert)[self.split_indices(split)]
        values = self.metric(metric)[picked[picked >= 0]]
        known = values[~np.isnan(values)]
        return (float(known.mean()), known.size) if known.size else (float("nan"), 0)

    def metric(self, name: str) -> Floats:
        """Values of a metric, [rows].

        Raises:
            DataError: No candidate was scored with it.
        """
        if name not in self.scores:
            others = f", or use one of: {', '.join(self.scores)}" if self.scores else ""
            fix = f"add it to 'metrics' of stage score{others}"
            raise DataError(f"no score of this metric on {self.name}", value=name, fix=fix)
        return self.scores[name]

    def is_best(self, metric: str, index: int, row: int) -> bool | None:
        """Whether no candidate of question ``index`` is better than the one at ``row``; or None.

        Ties are best together. Of wrong choices none is the best. None where the metric was not
        scored or a candidate has no value.
        """
        values = self.scores.get(metric)
        own = None if values is None else values[self.offsets[index] : self.offsets[index + 1]]
        if values is None or own is None or np.isnan(own).any():
            return None
        return bool(values[row] == (1.0 if self.task == "mcq" else own.max()))

    @property
    def name(self) -> str:
        """What the board is about, for messages."""
        return f"data set '{self.dataset}' ({self.task}, {self.protocol})"

    def answer(
        self,
        method: str,
        index: int,
        row: int | None,
        *,
        paid: Iterable[int],
        text: str | None = None,
        choice: int | None = None,
        confidence: float | None = None,
    ) -> Answer:
        """Answer to question ``index`` that repeats the candidate at ``row``, or a new text.

        ``paid`` are the rows that had to be generated for it. The prompt of one expert counts
        once however many samples were drawn from it.
        """
        source = None if row is None else self.candidates[row]
        bought = [self.candidates[r] for r in paid]
        prompts = {c.expert: c.prompt_tokens for c in bought}
        return Answer(
            question_id=self.questions[index].id,
            method=method,
            text=(source.text if source else "") if text is None else text,
            choice_index=source.choice_index if source else choice,
            confidence=confidence,
            experts_used=tuple(prompts),
            tokens=sum(prompts.values()) + sum(c.completion_tokens for c in bought),
            seconds=sum(c.seconds for c in bought),
            candidate=source.key if source else None,
            protocol=self.protocol,
        )


def _or_unparsed(choices: Sequence[int | None]) -> Ints:
    return np.array([UNPARSED if c is None else c for c in choices], dtype=np.int64)


def build_boards(
    questions: Iterable[Question], candidates: Iterable[Candidate], scores: Iterable[Score]
) -> list[Board]:
    """Sort questions, candidates and scores onto boards, in order of the questions.

    Scores may come as a stream; only their values are kept. The score of a text that is no
    candidate (a fused answer) names its method as ``expert``. The values of ``correct`` come from
    the candidates, for a Score does not tell the protocols apart. A question without a candidate
    is on no board.

    Raises:
        DataError: A candidate belongs to no question, or stands twice.
    """
    known = {question.id: question for question in questions}
    grouped = _grouped(known, candidates)
    order: dict[_BoardKey, list[str]] = defaultdict(list)
    for question in known.values():
        for protocol in grouped.get(question.id, {}):
            order[(question.dataset, question.task, protocol)].append(question.id)
    rows = {key: [c for i in ids for c in grouped[i][key[2]]] for key, ids in order.items()}
    values, others = _score_arrays(rows, (s for s in scores if _is_long(known, s)))
    return [
        _board(key, [known[i] for i in order[key]], rows[key], values[key], others) for key in order
    ]


def _is_long(known: Mapping[str, Question], score: Score) -> bool:
    return score.question_id in known and known[score.question_id].task == "long"


def _grouped(
    known: Mapping[str, Question], candidates: Iterable[Candidate]
) -> dict[str, dict[Protocol, list[Candidate]]]:
    experts: dict[str, int] = {}
    grouped: dict[str, dict[Protocol, list[Candidate]]] = {}
    for candidate in candidates:
        if candidate.question_id not in known:
            fix = "run the stages prepare and generate again with one recipe"
            problem = f"candidate {candidate.key} belongs to no prepared question"
            raise DataError(problem, value=candidate.question_id, fix=fix)
        experts.setdefault(candidate.expert, len(experts))
        by_protocol = grouped.setdefault(candidate.question_id, {})
        by_protocol.setdefault(candidate.protocol, []).append(candidate)
    for by_protocol in grouped.values():
        for group in by_protocol.values():
            group.sort(key=lambda c: (experts[c.expert], c.sample))
            _refuse_repeats(group)
    return grouped


def _refuse_repeats(group: Sequence[Candidate]) -> None:
    for first, second in pairwise(group):
        if first.key == second.key:
            problem = f"candidate {first.key} stands twice for one question"
            fix = "delete the stage folder of generate and run it again"
            raise DataError(problem, value=first.question_id, fix=fix)


def _score_arrays(
    rows: Mapping[_BoardKey, Sequence[Candidate]], scores: Iterable[Score]
) -> tuple[dict[_BoardKey, dict[str, Floats]], dict[tuple[str, str, str], float]]:
    """Values by board and metric, and the values of texts that are no candidate."""
    places = {
        (c.question_id, c.expert, c.sample): (key, row)
        for key, group in rows.items()
        if key[1] == "long"
        for row, c in enumerate(group)
    }
    values: dict[_BoardKey, dict[str, Floats]] = {key: {} for key in rows}
    others: dict[tuple[str, str, str], float] = {}
    for score in scores:
        place = places.get((score.question_id, score.expert, score.sample))
        if place is None:
            others[(score.expert, score.question_id, score.metric)] = score.value
            continue
        key, row = place
        if score.metric not in values[key]:
            values[key][score.metric] = np.full(len(rows[key]), np.nan)
        values[key][score.metric][row] = score.value
    return values, others


def _board(
    key: _BoardKey,
    questions: Sequence[Question],
    candidates: Sequence[Candidate],
    scores: Mapping[str, Floats],
    others: Mapping[tuple[str, str, str], float],
) -> Board:
    dataset, task, protocol = key
    counts: dict[str, int] = defaultdict(int)
    for candidate in candidates:
        counts[candidate.question_id] += 1
    offsets = np.cumsum([0, *(counts[question.id] for question in questions)])
    if task == "mcq":
        chosen = _or_unparsed([c.choice_index for c in candidates])
        gold = np.repeat(_or_unparsed([q.answer_index for q in questions]), np.diff(offsets))
        scores = {"correct": np.where(gold < 0, np.nan, (chosen == gold).astype(np.float64))}
    return Board(
        dataset, task, protocol, tuple(questions), tuple(candidates), offsets, scores, others
    )
