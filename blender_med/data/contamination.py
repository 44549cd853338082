"""Overlap of two question sets: what one gives away about the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blender_med.data.text import normalised, words
from blender_med.errors import ConfigError
from blender_med.records import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Shingles = NDArray[np.uint64]

Kind = Literal["question", "answer", "near_question", "near_answer"]

_COMPARED: tuple[tuple[str, Kind, Kind], ...] = (
    ("question", "question", "near_question"),
    ("reference", "answer", "near_answer"),
)
WORDS = 8
MIN_SHARED = 10
# One hash per band finds two texts with Jaccard similarity s with probability 1 - (1 - s)^64:
# 99.9 % at s = 0.1. Containment 0.5 of a short text in one five times as long is s = 0.1.
_PERMUTATIONS = 64


@dataclass(frozen=True, slots=True)
class Overlap:
    """A question of the first set that overlaps the second set.

    Attributes:
        a_id: Question of the first set.
        b_id: Its closest counterpart in the second set; of equally close ones the first.
        kind: ``question`` or ``answer`` (equal after normalisation), ``near_question`` or
            ``near_answer`` (long runs of words in common).
        containment: Shared 8-word sequences over those of the shorter text, in 0..1.
        matches: Questions of the second set that overlap it in this kind.
    """

    a_id: str
    b_id: str
    kind: Kind
    containment: float
    matches: int


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """Overlaps of two sets of ``n_a`` and ``n_b`` questions.

    ``b_ids`` has, for each kind, the questions of the second set that overlap the first.
    """

    rows: tuple[Overlap, ...]
    n_a: int
    n_b: int
    b_ids: Mapping[Kind, frozenset[str]]

    def contaminated(self, *kinds: Kind) -> set[str]:
        """Ids of the first set with an overlap of one of the kinds; of any without kinds."""
        return {row.a_id for row in self.rows if not kinds or row.kind in kinds}

    def summary(self) -> dict[Kind, tuple[int, int, int]]:
        """For each kind: pairs, questions of the first set, questions of the second set."""
        found: dict[Kind, tuple[int, int, int]] = {}
        for kind, b_ids in self.b_ids.items():
            matches = [row.matches for row in self.rows if row.kind == kind]
            found[kind] = (sum(matches), len(matches), len(b_ids))
        return found


def overlap(a: Sequence[Question], b: Sequence[Question], threshold: float = 0.5) -> OverlapReport:
    """Exact and near-duplicate overlap of questions and of reference answers.

    Texts are compared as words in NFKC and lower case, letters and digits only. Near-duplicates
    share at least 10 distinct 8-word sequences, and at least ``threshold`` of those of the
    shorter text. MinHash LSH proposes the pairs, the sequences themselves decide; a pair that is
    equal is not counted as near. A question is never compared with itself, so ``overlap(a, a)``
    finds the repeats inside a set.

    Args:
        a: The set in question, such as the test set; may be empty.
        b: The set that may have leaked into it, such as the training set; may be empty.
        threshold: Least containment of a near-duplicate, in (0, 1].

    Returns:
        One row for each question of ``a`` and kind of overlap, in the order of ``a``.

    Raises:
        ConfigError: ``threshold`` is out of range.
    """
    if not 0 < threshold <= 1:
        fix = "give a share above 0 and up to 1"
        raise ConfigError("threshold out of range", key="threshold", value=threshold, fix=fix)
    rows: list[Overlap] = []
    b_ids: dict[Kind, set[str]] = {}
    for field, exact, near in _COMPARED:
        texts_a, texts_b = ([getattr(q, field) or "" for q in side] for side in (a, b))
        for i, equal in enumerate(_equal(texts_a, texts_b)):
            _add(rows, b_ids, exact, a[i], b, dict.fromkeys(equal, 1.0))
        for i, close in _near(texts_a, texts_b, threshold):
            _add(rows, b_ids, near, a[i], b, close)
    return OverlapReport(tuple(rows), len(a), len(b), {k: frozenset(v) for k, v in b_ids.items()})


def _add(
    rows: list[Overlap],
    b_ids: dict[Kind, set[str]],
    kind: Kind,
    question: Question,
    others: Sequence[Question],
    found: Mapping[int, float],
) -> None:
    """Add the row of one question: its matches by place in ``others``, with containments."""
    own = (question.dataset, question.id)
    matches = {j: c for j, c in found.items() if (others[j].dataset, others[j].id) != own}
    if not matches:
        return
    closest = max(matches, key=lambda j: (matches[j], -j))
    rows.append(Overlap(question.id, others[closest].id, kind, matches[closest], len(matches)))
    b_ids.setdefault(kind, set()).update(others[j].id for j in matches)


def _equal(a: Sequence[str], b: Sequence[str]) -> Iterator[list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for j, text in enumerate(b):
        places[normalised(text)].append(j)
    places.pop("", None)
    for text in a:
        yield places.get(normalised(text), [])


def _near(
    a: Sequence[str], b: Sequence[str], threshold: float
) -> Iterator[tuple[int, dict[int, float]]]:
    """For each text of ``a``: its near-duplicates in ``b`` that are not equal to it."""
    vocabulary: dict[str, int] = {}
    left, right = _long_enough(a, vocabulary), _long_enough(b, vocabulary)
    names = {j: normalised(b[j]) for j in right}
    for i, proposed in _proposed(left, right):
        own, shared = normalised(a[i]), _shared(left[i], [right[j] for j in proposed])
        near = {j: n for j, n in zip(proposed, shared, strict=True) if n >= MIN_SHARED}
        close = {j: n / min(len(left[i]), len(right[j])) for j, n in near.items()}
        yield i, {j: c for j, c in close.items() if c >= threshold and names[j] != own}


def _long_enough(texts: Sequence[str], vocabulary: dict[str, int]) -> dict[int, Shingles]:
    found = ((i, shingles(text, vocabulary)) for i, text in enumerate(texts))
    return {i: hashes for i, hashes in found if len(hashes) >= MIN_SHARED}


def shingles(text: str, vocabulary: dict[str, int]) -> Shingles:
    """Distinct 8-word sequences of ``text`` as sorted 64-bit hashes, [n].

    Args:
        text: Any text; one of fewer than 8 words has none.
        vocabulary: Word to number; new words are added, so texts to compare must share it.
    """
    import numpy as np

    numbers = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
    if len(numbers) < WORDS:
        return np.empty(0, np.uint64)
    mixed = (np.array(numbers, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(len(mixed) - WORDS + 1, np.uint64)
    for k in range(WORDS):
        hashes = hashes * np.uint64(0x100000001B3) + mixed[k : len(mixed) - WORDS + 1 + k]
    return np.unique(hashes ^ (hashes >> np.uint64(32)))


def _shared(text: Shingles, others: Sequence[Shingles]) -> list[int]:
    """Sequences that ``text`` shares with each of ``others``, [len(others)]; none is empty."""
    import numpy as np

    every = np.concatenate(others)
    places = np.searchsorted(text, every).clip(max=len(text) - 1)
    starts = np.cumsum([0, *(len(other) for other in others[:-1])])
    counts: list[int] = np.add.reduceat((text[places] == every).astype(int), starts).tolist()
    return counts


def _proposed(a: dict[int, Shingles], b: dict[int, Shingles]) -> Iterator[tuple[int, list[int]]]:
    if not a or not b:
        return
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=(_PERMUTATIONS, 1))
    for j, sketch in _sketches(b).items():
        index.insert(j, sketch)
    for i, sketch in _sketches(a).items():
        proposed = sorted(index.query(sketch))
        if proposed:
            yield i, proposed


def _sketches(texts: dict[int, Shingles]) -> dict[int, Any]:
    from datasketch import MinHash

    low = ((hashes & 0xFFFFFFFF).tolist() for hashes in texts.values())
    sketches = MinHash.generator(low, num_perm=_PERMUTATIONS, hashfunc=_identity)
    return dict(zip(texts, sketches, strict=True))


def _identity(value: int) -> int:
    return value  # the sequences are hashed already


def repeated(questions: Sequence[Question]) -> dict[str, int]:
    """Normalised questions that occur more than once, with their number."""
    counts = Counter(normalised(q.question) for q in questions)
    return {text: n for text, n in counts.items() if n > 1}
