"""Token rows of single texts and of (source, candidate) pairs, and their way through an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch

from blender_med.batching import token_budget_batches
from blender_med.errors import ConfigError
from blender_med.rankers.collate import padded
from blender_med.rankers.pair_config import most_positions
from blender_med.rankers.pointwise import Scored
from blender_med.rankers.text import neutralise

Ids = list[int]
Pooling = Literal["cls", "mean"]


class Row(NamedTuple):
    """Token ids of one input.

    Attributes:
        ids: With the tokens that frame the texts.
        candidate: Positions of the candidate's own tokens in ``ids``.
        second: Position from which on the tokens are of the second segment.
    """

    ids: Ids
    candidate: range
    second: int


class TextRows:
    """Turns single texts into token rows.

    Args:
        tokenizer: Of an encoder; it puts at least one token around a text.
        max_length: Most tokens of a row, those around the text included.

    Raises:
        ConfigError: The tokenizer frames nothing, or leaves no room for the text.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        self._opening, self._closing = _frame(tokenizer, tokenizer("a")["input_ids"], ["a"])
        self._room = max_length - len(self._opening) - len(self._closing)
        _check_frame(self._opening + self._closing)
        _check_room(self._room, "max_length", max_length)

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """One row for each text, cut on the right; special tokens inside texts become spaces."""
        bare = bare_ids(self._tokenizer, texts, self._special)
        return [[*self._opening, *ids[: self._room], *self._closing] for ids in bare]


class PairRows:
    """Turns a source with a candidate into the row that the tokenizer makes of a pair of texts.

    Args:
        tokenizer: Of an encoder; it puts tokens around and between two texts.
        source_maxlength: Most tokens of the source's text.
        candidate_maxlength: Most tokens of the candidate's text.

    Raises:
        ConfigError: The tokenizer frames nothing, or a length leaves no room for a text.
    """

    def __init__(self, tokenizer: Any, source_maxlength: int, candidate_maxlength: int) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        self._limits = source_maxlength, candidate_maxlength
        check_rooms(*self._limits)
        encoded = tokenizer("a", "b")
        self._frame = _frame(tokenizer, encoded["input_ids"], ["a", "b"])
        self.has_segments = any(encoded.get("token_type_ids", ()))
        _check_frame([token for part in self._frame for token in part])

    @property
    def longest(self) -> int:
        """Most tokens that a row can have."""
        return sum(self._limits) + sum(map(len, self._frame))

    def __call__(self, sources: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[Row]]:
        """Rows of each source's candidates; special tokens inside texts become spaces."""
        own = bare_ids(self._tokenizer, sources, self._special)
        flat = iter(bare_ids(self._tokenizer, [c for g in groups for c in g], self._special))
        return [
            [self._row(source, next(flat)) for _ in group]
            for source, group in zip(own, groups, strict=True)
        ]

    def _row(self, source: Ids, candidate: Ids) -> Row:
        opening, middle, closing = self._frame
        first = [*opening, *source[: self._limits[0]], *middle]
        second = candidate[: self._limits[1]]
        end = len(first) + len(second)
        return Row([*first, *second, *closing], range(len(first), end), len(first))


def bare_ids(tokenizer: Any, texts: Sequence[str], special: Iterable[str]) -> list[Ids]:
    """Token ids of each text alone; the texts of ``special`` inside become spaces."""
    if not texts:
        return []
    clean = [neutralise(text, special) for text in texts]
    return list(tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"])


def special_tokens(tokenizer: Any) -> set[str]:
    """Texts that the tokenizer would read as a token of its own meaning."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def pad_id(config: Any) -> int:
    """Id that fills a row up; the attention mask hides it, so any will do."""
    return 0 if config.pad_token_id is None else int(config.pad_token_id)


def inputs(rows: Sequence[Ids], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` of rows padded at the end, [rows, longest]."""
    return {name: tensor.to(device) for name, tensor in padded(rows, pad).items()}


def pair_inputs(
    rows: Sequence[Row], pad: int, device: torch.device, *, has_segments: bool
) -> dict[str, torch.Tensor]:
    """Model inputs of pairs, with ``token_type_ids`` where the tokenizer has segments."""
    tensors = inputs([row.ids for row in rows], pad, device)
    if not has_segments:
        return tensors
    places = torch.arange(tensors["input_ids"].shape[1], device=device)
    starts = torch.tensor([row.second for row in rows], device=device)
    types = (places >= starts[:, None]).long() * tensors["attention_mask"]
    return tensors | {"token_type_ids": types}


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector of unit length for each row, [rows, hidden], float32.

    Args:
        states: Last hidden states, [rows, length, hidden].
        mask: 1 for tokens, 0 for padding, [rows, length].
        pooling: ``cls`` takes the first token, ``mean`` the mean of all tokens.
    """
    states = states.float()
    if pooling == "mean":
        weights = mask[..., None].float()
        vectors = (states * weights).sum(dim=1) / weights.sum(dim=1)
    else:
        vectors = states[:, 0]
    return torch.nn.functional.normalize(vectors, dim=-1)


@torch.inference_mode()
def unit_vectors(
    model: Any, rows: Sequence[Ids], *, pooling: Pooling, batch_tokens: int
) -> torch.Tensor:
    """Vectors of unit length of token rows, [rows, hidden], float32, on the CPU."""
    vectors = torch.empty(len(rows), model.config.hidden_size)
    for batch in token_budget_batches([len(row) for row in rows], batch_tokens):
        tensors = inputs([rows[i] for i in batch], pad_id(model.config), model.device)
        states = model(**tensors).last_hidden_state
        vectors[batch] = pooled(states, tensors["attention_mask"], pooling).cpu()
    return vectors


def cosines(
    sources: Sequence[Ids],
    groups: Sequence[Sequence[Ids]],
    embed: Callable[[Sequence[Ids]], torch.Tensor],
) -> list[Scored]:
    """Cosine of each source with each of its candidates, -1 to 1.

    Args:
        sources: Rows of the sources.
        groups: Rows of each source's candidates.
        embed: Vectors of unit length of rows, such as :func:`unit_vectors`.
    """
    vectors = embed([*sources, *(row for group in groups for row in group)])
    owners = torch.repeat_interleave(torch.tensor([len(group) for group in groups]))
    values = (vectors[: len(sources)][owners] * vectors[len(sources) :]).sum(dim=1)
    parts = values.split([len(group) for group in groups])
    return [
        Scored(part.tolist(), len(source) + sum(map(len, group)))
        for part, source, group in zip(parts, sources, groups, strict=True)
    ]


def row_scores(
    groups: Sequence[Sequence[Row]],
    score: Callable[[Sequence[Row]], list[float]],
    batch_tokens: int,
) -> list[Scored]:
    """Scores of the rows of each source, from batches of similar length.

    Args:
        groups: Rows of each source's candidates.
        score: Scores of some rows in one forward pass.
        batch_tokens: Most tokens of a forward pass.
    """
    rows = [row for group in groups for row in group]
    values = [0.0] * len(rows)
    for batch in token_budget_batches([len(row.ids) for row in rows], batch_tokens):
        for i, value in zip(batch, score([rows[i] for i in batch]), strict=True):
            values[i] = value
    own = iter(values)
    return [
        Scored([next(own) for _ in group], sum(len(row.ids) for row in group)) for group in groups
    ]


def check_positions(config: Any, longest: int, key: str) -> None:
    """Check that a row of ``longest`` tokens fits the positions that a model has.

    Args:
        config: The model's configuration. Models with relative positions have no limit.
        longest: Most tokens of a row.
        key: The setting that the error names.

    Raises:
        ConfigError: It does not fit.
    """
    limit = most_positions(config)
    if limit is not None and longest > limit:
        problem = f"rows of up to {longest} tokens, but the model has {limit} positions"
        raise ConfigError(problem, key=key, value=longest, fix=f"lower {key}")


def _frame(tokenizer: Any, framed: Ids, texts: Sequence[str]) -> tuple[Ids, ...]:
    """Tokens before, between and after ``texts`` in ``framed``."""
    parts: list[Ids] = []
    start = 0
    for bare in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        places = range(start, len(framed) - len(bare) + 1)
        found = next(p for p in places if framed[p : p + len(bare)] == bare)
        parts.append(framed[start:found])
        start = found + len(bare)
    return (*parts, framed[start:])


def _check_frame(frame: Ids) -> None:
    if not frame:
        fix = "choose an encoder such as BERT, RoBERTa, MPNet or DeBERTa"
        raise ConfigError("the tokenizer puts no token around a text", key="backbone", fix=fix)


def check_rooms(source_maxlength: int, candidate_maxlength: int) -> None:
    """Check that a question and a candidate may have a token.

    Raises:
        ConfigError: They may not.
    """
    _check_room(source_maxlength, "source_maxlength", source_maxlength)
    _check_room(candidate_maxlength, "candidate_maxlength", candidate_maxlength)


def _check_room(room: int, key: str, value: int) -> None:
    if room < 1:
        fix = "raise it until a text fits between the tokens that frame it"
        raise ConfigError("no room for a text", key=key, value=value, fix=fix)
