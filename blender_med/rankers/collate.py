"""Token rows of the pairwise cross-encoder, as LLM-Blender lays them out.

    [CLS] <|source|> question [SEP] [CLS] <|candidate1|> A [SEP] [CLS] <|candidate2|> B [SEP]

Each segment keeps its own opening and closing tokens; padding stands at the end. Lengths are
fitted row by row (the rule of PairRM's Hugging Face form), so the logits of a pair do not depend
on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from blender_med.errors import ConfigError
from blender_med.rankers.text import neutralise

if TYPE_CHECKING:
    import torch

SOURCE = "<|source|>"
CANDIDATE = "<|candidate|>"
CANDIDATE_1 = "<|candidate1|>"
CANDIDATE_2 = "<|candidate2|>"
# In the order in which llm-blender adds them, so that new ids agree with its checkpoints.
PREFIXES = (SOURCE, CANDIDATE_1, CANDIDATE_2, CANDIDATE)

Ids = list[int]


class Pair(NamedTuple):
    """One forward pass: token ids of the source and of the candidates in their order."""

    source: Ids
    left: Ids
    right: Ids

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.source) + len(self.left) + len(self.right)


@dataclass(frozen=True, slots=True)
class Frame:
    """Tokens that a tokenizer puts around one text."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens that the frame takes of a length limit."""
        return len(self.opening) + len(self.closing)

    def around(self, ids: Sequence[int], limit: int) -> Ids:
        """``ids`` cut on the right so that with the frame they have at most ``limit`` tokens."""
        return [*self.opening, *ids[: max(0, limit - self.size)], *self.closing]


class PairEncoder:
    """Turns texts into the token rows of a pairwise cross-encoder.

    Args:
        tokenizer: With the four special tokens ``<|source|>``, ``<|candidate1|>``,
            ``<|candidate2|>``, ``<|candidate|>``.
        source_maxlength: Most tokens of the source segment.
        candidate_maxlength: Tokens of a candidate segment; what a short source leaves is shared
            between both candidates.
        positions: Most tokens of a row; where the segments have more, the longer candidate is
            cut, then both. None: no limit.
        is_encoder_decoder: The source stands in a row of its own.

    Raises:
        ConfigError: The tokenizer lacks a special token or a separator, or a length leaves no
            room for a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        source_maxlength: int,
        candidate_maxlength: int,
        *,
        positions: int | None = None,
        is_encoder_decoder: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.source_maxlength = source_maxlength
        self.candidate_maxlength = candidate_maxlength
        self.positions = positions
        self.is_encoder_decoder = is_encoder_decoder
        self.prefix_ids = prefix_ids(tokenizer)
        self._frame = _frame(tokenizer)
        self._special = {*PREFIXES, *_marks(tokenizer)}
        self._check_room("source_maxlength", source_maxlength)
        self._check_room("candidate_maxlength", candidate_maxlength)

    def _check_room(self, key: str, value: int) -> None:
        least = self._frame.size + 2
        if value < least:
            fix = f"give at least {least}: the tokens around a text, its prefix and one of its own"
            raise ConfigError("no room for a text", key=key, value=value, fix=fix)

    @property
    def opening(self) -> int:
        """Tokens of a segment before its prefix."""
        return len(self._frame.opening)

    @property
    def pad_id(self) -> int:
        """Id that fills rows up; the attention mask hides it, so any will do."""
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def sources(self, texts: Iterable[str]) -> list[Ids]:
        """Source segments, each at most ``source_maxlength`` tokens."""
        return [self._frame.around(ids, self.source_maxlength) for ids in self._ids(SOURCE, texts)]

    def candidates(self, texts: Iterable[str]) -> list[Ids]:
        """Whole candidates with their prefix, neither cut nor framed."""
        return self._ids(CANDIDATE, texts)

    def cut(self, source: Ids, candidate: Ids) -> Ids:
        """What a pair can show of ``candidate`` beside ``source``, whatever its rival."""
        return candidate[: max(1, self._most(len(source)) - self._frame.size)]

    def length(self, source: Ids, left: Ids, right: Ids) -> int:
        """Tokens of the row that :meth:`pair` would make."""
        limit = self._limit(len(source), len(left), len(right))
        sizes = (min(limit, len(ids) + self._frame.size) for ids in (left, right))
        return len(source) + sum(sizes)

    def pair(self, source: Ids, left: Ids, right: Ids) -> Pair:
        """The row in which ``left`` stands first.

        Args:
            source: From :meth:`sources`.
            left: From :meth:`candidates` or :meth:`cut`.
            right: The same.
        """
        limit = self._limit(len(source), len(left), len(right))
        first, second = self.prefix_ids[CANDIDATE_1], self.prefix_ids[CANDIDATE_2]
        return Pair(
            source,
            self._frame.around([first, *left[1:]], limit),
            self._frame.around([second, *right[1:]], limit),
        )

    def _most(self, source: int) -> int:
        """Most tokens of a candidate segment beside a source of that many."""
        return self.candidate_maxlength + (self.source_maxlength - source) // 2

    def _limit(self, source: int, left: int, right: int) -> int:
        """Most tokens of each candidate segment, given the tokens of source and candidates."""
        limit = self._most(source)
        if self.positions is None:
            return limit
        room = self.positions - (0 if self.is_encoder_decoder else source)
        shorter, longer = sorted(min(limit, size + self._frame.size) for size in (left, right))
        return limit if shorter + longer <= room else max(room // 2, room - shorter)

    def _ids(self, prefix: str, texts: Iterable[str]) -> list[Ids]:
        framed = [prefix + neutralise(text, self._special) for text in texts]
        if not framed:
            return []
        rows = self.tokenizer(framed, add_special_tokens=False, verbose=False)["input_ids"]
        # Normalisation can turn other characters into a prefix: <|SOURCE|> in lower case.
        reserved = frozenset(self.prefix_ids.values())
        return [row[:1] + [token for token in row[1:] if token not in reserved] for row in rows]


def add_prefixes(tokenizer: Any) -> None:
    """Add the special tokens that are missing, in llm-blender's order."""
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in PREFIXES if token not in known])


def prefix_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens.

    Raises:
        ConfigError: The tokenizer lacks one.
    """
    known = tokenizer.get_vocab()
    for token in PREFIXES:
        if token not in known:
            fix = "use the tokenizer saved with the ranker, or train one on this backbone"
            problem = "the tokenizer lacks a special token of the pairwise ranker"
            raise ConfigError(problem, key="tokenizer", value=token, fix=fix)
    return {token: known[token] for token in PREFIXES}


def _frame(tokenizer: Any) -> Frame:
    bare = tokenizer(SOURCE, add_special_tokens=False)["input_ids"]
    framed = tokenizer(SOURCE)["input_ids"]
    start = framed.index(bare[0])
    opening, closing = framed[:start], framed[start + len(bare) :]
    return Frame(tuple(opening), tuple(closing or [_separator(tokenizer)]))


def _separator(tokenizer: Any) -> int:
    for token in (tokenizer.sep_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    fix = "choose an encoder whose tokenizer has a separator"
    raise ConfigError("the tokenizer has no separator", key="backbone", fix=fix)


def _marks(tokenizer: Any) -> set[str]:
    names = ("sep_token", "cls_token", "pad_token", "mask_token", "bos_token", "eos_token")
    return {token for name in names if (token := getattr(tokenizer, name, None))}


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows padded at the end: ``input_ids`` and ``attention_mask``, [rows, longest]."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def collate(
    pairs: Sequence[Pair], pad_id: int, *, is_encoder_decoder: bool = False
) -> dict[str, torch.Tensor]:
    """Model inputs of a batch of pairs.

    An encoder-decoder reads the source in its encoder and both candidates in its decoder.
    """
    if not is_encoder_decoder:
        return padded([[*p.source, *p.left, *p.right] for p in pairs], pad_id)
    decoder = padded([[*p.left, *p.right] for p in pairs], pad_id)
    return padded([p.source for p in pairs], pad_id) | {
        f"decoder_{name}": tensor for name, tensor in decoder.items()
    }
