"""Token embeddings of an encoder, and the greedy matching of two texts' tokens.

Each distinct text goes through the encoder once. Batches hold texts of nearly one length. Memory
is bounded: the states of a text are dropped after the last pair that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from blender_med.batching import token_budget_batches
from blender_med.packed import pack_linear_layers

Ids = Sequence[int]
Advance = Callable[[int], None]

_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
_STATE_BYTES = 512 * 2**20
_MATCHED_AT_ONCE = 32


class IndexPair(NamedTuple):
    """Positions of a hypothesis and of its reference in the list of distinct texts."""

    hypothesis: int
    reference: int


class Match(NamedTuple):
    """Cosine of each token with the most similar token of the other text.

    ``hypothesis`` [tokens of the hypothesis] gives precision, ``reference`` [tokens of the
    reference] recall.
    """

    hypothesis: torch.Tensor
    reference: torch.Tensor


class TokenEncoder:
    """Unit-length token states of an encoder's last layer, float32."""

    def __init__(self, model: Any, pad: int, batch_tokens: int | None = None) -> None:
        self._model = pack_linear_layers(model)
        self._device: torch.device = model.device
        self._pad = pad
        self._batch_tokens = batch_tokens or _BATCH_TOKENS.get(self._device.type, 65536)
        self._kept_tokens = max(1, _STATE_BYTES // (4 * int(model.config.hidden_size)))

    @torch.inference_mode()
    def states(self, texts: Sequence[Ids], advance: Advance | None = None) -> list[torch.Tensor]:
        """States [tokens, hidden] of each text; every text has at least one token.

        ``advance(n)`` reports n tokens done.
        """
        found: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        lengths = [len(text) for text in texts]
        for batch in token_budget_batches(lengths, self._batch_tokens):
            states = self._forward([texts[i] for i in batch])
            for row, i in enumerate(batch):
                own = states[row, : lengths[i]].float()
                found[i] = own / own.norm(dim=1, keepdim=True)
            if advance:
                advance(sum(lengths[i] for i in batch))
        return found

    def _forward(self, texts: Sequence[Ids]) -> torch.Tensor:
        lengths = torch.tensor([len(text) for text in texts])
        ids = torch.full((len(texts), int(lengths.max())), self._pad)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = torch.tensor([token for text in texts for token in text])
        output = self._model(
            input_ids=ids.to(self._device), attention_mask=mask.long().to(self._device)
        )
        return output.last_hidden_state

    @torch.inference_mode()
    def matches(
        self, texts: Sequence[Ids], pairs: Sequence[IndexPair], advance: Advance | None = None
    ) -> Iterator[tuple[int, Match]]:
        """The match of every pair, with its position in ``pairs``, in an order of their own.

        Args:
            texts: Token ids of the distinct texts.
            pairs: What is compared.
            advance: Told the tokens of each batch of texts; each text counts once.
        """
        blocks = list(self._blocks(texts, pairs))
        last_use = {t: n for n, block in enumerate(blocks) for i in block for t in pairs[i]}
        kept: dict[int, torch.Tensor] = {}
        for number, block in enumerate(blocks):
            new = sorted({text for i in block for text in pairs[i]} - kept.keys())
            kept.update(zip(new, self.states([texts[i] for i in new], advance), strict=True))
            for group in _by_reference(block, pairs):
                hypotheses = [kept[pairs[i].hypothesis] for i in group]
                found = greedy_matches(hypotheses, kept[pairs[group[0]].reference])
                yield from zip(group, found, strict=True)
            kept = {text: s for text, s in kept.items() if last_use[text] > number}

    def _blocks(self, texts: Sequence[Ids], pairs: Sequence[IndexPair]) -> Iterator[list[int]]:
        """Pairs in groups of a bounded number of tokens; pairs of a reference stay together."""
        order = [i for group in _by_reference(range(len(pairs)), pairs) for i in group]
        block: list[int] = []
        tokens = 0
        for i in order:
            size = len(texts[pairs[i].hypothesis]) + len(texts[pairs[i].reference])
            if block and tokens + size > self._kept_tokens:
                yield block
                block, tokens = [], 0
            block.append(i)
            tokens += size
        if block:
            yield block


def _by_reference(wanted: Iterable[int], pairs: Sequence[IndexPair]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i in wanted:
        groups.setdefault(pairs[i].reference, []).append(i)
    return list(groups.values())


def greedy_matches(hypotheses: Sequence[torch.Tensor], reference: torch.Tensor) -> list[Match]:
    """Match each hypothesis with one reference.

    A cosine below 0 counts as 0, as it does in bert-score wherever it has padded a batch; there
    the longest text of a batch alone keeps its negative cosines.

    Args:
        hypotheses: Unit vectors of the tokens of each, [tokens, hidden].
        reference: Unit vectors, [tokens, hidden].

    Returns:
        One match per hypothesis; values in 0..1.
    """
    found: list[Match] = []
    for start in range(0, len(hypotheses), _MATCHED_AT_ONCE):
        some = hypotheses[start : start + _MATCHED_AT_ONCE]
        cosines = (torch.cat(list(some)) @ reference.T).clamp_(min=0)
        for own in cosines.split([len(h) for h in some]):
            found.append(Match(own.amax(dim=1), own.amax(dim=0)))
    return found
