"""Mean log-likelihood of target tokens given source tokens, under a generative model.

Each distinct source goes through an encoder once, whatever the number of its targets. Batches
hold texts of nearly one length and a bounded number of tokens, and the output layer sees real
tokens only, so that padding costs next to nothing. Memory is bounded: sources are encoded and
used up in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from blender_med.batching import token_budget_batches
from blender_med.errors import ConfigError
from blender_med.metrics.likelihood import VocabularyHead
from blender_med.packed import pack_linear_layers

Ids = Sequence[int]
Advance = Callable[[int], None]

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_STATE_BYTES = 256 * 2**20
# Targets whose lengths differ by less than this share a batch: a padded target token costs seven
# times a padded source token, so within a bucket rows are sorted by the length of the source.
_BUCKET_RATIO = 1.03
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class Pair(NamedTuple):
    """A target and the position of its source in the list of distinct sources."""

    source: int
    target: Ids


class Likelihood(Protocol):
    """Mean log-likelihood per token, in nats; higher is better."""

    def means(
        self, sources: Sequence[Ids], pairs: Sequence[Pair], advance: Advance | None = None
    ) -> list[float]:
        """One value per pair; every source and every target has at least one token.

        ``advance(n)`` reports n pairs done.
        """
        ...


def default_batch_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep the device busy and, on a CPU, its cache warm."""
    return _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["cuda"])


def padded(rows: Sequence[Ids], pad: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Token ids [n, longest], padded at the end, and the mask of real tokens, bool."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    ids[mask] = torch.tensor([token for row in rows for token in row])
    return ids.to(device), mask.to(device)


def _row_means(values: torch.Tensor, lengths: Sequence[int]) -> list[float]:
    return [float(row.double().mean()) for row in values.cpu().split(list(lengths))]


class Seq2SeqLikelihood:
    """BART, T5 and other encoder-decoders; every target token is scored, the closing one too.

    Raises:
        ConfigError: The architecture's logits are no plain projection of its last states.
    """

    def __init__(self, model: Any, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device: torch.device = model.device
        self._encoder = pack_linear_layers(model.get_encoder())
        self._decoder = pack_linear_layers(model.get_decoder())
        self._head = _head(model)
        self._pad = int(model.config.pad_token_id)
        self._batch_tokens = batch_tokens or default_batch_tokens(self._device)
        width = int(model.config.hidden_size) * model.dtype.itemsize
        self._block_tokens = max(1, _STATE_BYTES // width)
        self._check_head()

    @torch.inference_mode()
    def means(
        self, sources: Sequence[Ids], pairs: Sequence[Pair], advance: Advance | None = None
    ) -> list[float]:
        """Mean log-probability of each target's tokens."""
        values = [math.nan] * len(pairs)
        for block in _blocks(sources, pairs, self._block_tokens):
            states = self._encoded(sources, sorted({pairs[i].source for i in block}))
            for batch in self._batches(block, sources, pairs):
                own = [states[pairs[i].source] for i in batch]
                scores = self._scores(own, [pairs[i].target for i in batch])
                for index, score in zip(batch, scores, strict=True):
                    values[index] = score
                if advance:
                    advance(len(batch))
        return values

    def _encoded(self, sources: Sequence[Ids], wanted: Sequence[int]) -> dict[int, torch.Tensor]:
        """Encoder states [length, hidden] of the wanted sources."""
        states: dict[int, torch.Tensor] = {}
        lengths = [len(sources[i]) for i in wanted]
        for batch in token_budget_batches(lengths, self._batch_tokens):
            ids, mask = padded([sources[wanted[i]] for i in batch], self._pad, self._device)
            output = self._encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            for row, i in enumerate(batch):
                states[wanted[i]] = output[row, : lengths[i]]
        return states

    def _batches(
        self, block: Sequence[int], sources: Sequence[Ids], pairs: Sequence[Pair]
    ) -> Iterator[list[int]]:
        buckets: dict[int, list[int]] = {}
        for i in block:
            bucket = int(math.log(len(pairs[i].target), _BUCKET_RATIO))
            buckets.setdefault(bucket, []).append(i)
        for own in buckets.values():
            longest = max(len(pairs[i].target) for i in own)
            lengths = [longest + len(sources[pairs[i].source]) for i in own]
            for batch in token_budget_batches(lengths, 2 * self._batch_tokens):
                yield [own[i] for i in batch]

    def _scores(self, states: Sequence[torch.Tensor], targets: Sequence[Ids]) -> list[float]:
        labels, mask = padded(targets, self._pad, self._device)
        lengths = torch.tensor([len(s) for s in states], device=self._device)
        memory = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        hidden = self._decoder(
            input_ids=self._model.prepare_decoder_input_ids_from_labels(labels),
            encoder_hidden_states=memory,
            encoder_attention_mask=(
                torch.arange(memory.shape[1], device=self._device) < lengths[:, None]
            ).long(),
            use_cache=False,
        ).last_hidden_state
        log_probs = self._head.log_probs(hidden[mask], labels[mask])
        log_probs[labels[mask] == self._pad] = 0.0
        return _row_means(log_probs, [len(target) for target in targets])

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids = torch.tensor([[5, 6, 7]], device=self._device)
        logits = self._model(input_ids=ids, labels=ids).logits
        ours = self._scores([self._encoded([[5, 6, 7]], [0])[0]], [[5, 6, 7]])
        _check_equal(self._model, logits[0], ids[0], ours[0])


class CausalLikelihood:
    """Decoder-only models: log-likelihood of the target's tokens after the source's."""

    def __init__(self, model: Any, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device: torch.device = model.device
        self._body = pack_linear_layers(model.base_model)
        self._head = _head(model)
        self._batch_tokens = batch_tokens or default_batch_tokens(self._device)
        self._check_head()

    @torch.inference_mode()
    def means(
        self, sources: Sequence[Ids], pairs: Sequence[Pair], advance: Advance | None = None
    ) -> list[float]:
        """Mean log-probability of each target's tokens."""
        values = [math.nan] * len(pairs)
        lengths = [len(sources[pair.source]) + len(pair.target) for pair in pairs]
        for batch in token_budget_batches(lengths, self._batch_tokens):
            rows = [(sources[pairs[i].source], pairs[i].target) for i in batch]
            for index, score in zip(batch, self._scores(rows), strict=True):
                values[index] = score
            if advance:
                advance(len(batch))
        return values

    def _scores(self, rows: Sequence[tuple[Ids, Ids]]) -> list[float]:
        ids, mask = padded([[*source, *target] for source, target in rows], 0, self._device)
        hidden = self._body(
            input_ids=ids, attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        starts = torch.tensor([len(source) for source, _ in rows], device=self._device)
        scored = mask & (torch.arange(ids.shape[1], device=self._device) >= starts[:, None])
        log_probs = self._head.log_probs(hidden[:, :-1][scored[:, 1:]], ids[scored])
        return _row_means(log_probs, [len(target) for _, target in rows])

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids = torch.tensor([[5, 6, 7, 8]], device=self._device)
        logits = self._model(input_ids=ids).logits
        _check_equal(self._model, logits[0, :-1], ids[0, 1:], self._scores([([5], [6, 7, 8])])[0])


def _head(model: Any) -> VocabularyHead:
    layer = model.get_output_embeddings()
    bias = getattr(model, "final_logits_bias", None)
    own = getattr(layer, "bias", None)
    return VocabularyHead(layer.weight, own if bias is None else bias)


def _check_equal(
    model: Any, logits: torch.Tensor, targets: torch.Tensor, mean_log_prob: float
) -> None:
    own = torch.log_softmax(logits.float(), dim=-1).gather(1, targets[:, None]).mean()
    if abs(float(own) - mean_log_prob) > _TOLERANCE[model.dtype]:
        problem = f"{type(model).__name__} changes its logits after the output layer"
        fix = "choose a model whose logits are a plain projection, such as BART"
        raise ConfigError(problem, key="model", value=model.name_or_path, fix=fix)


def _blocks(sources: Sequence[Ids], pairs: Sequence[Pair], tokens: int) -> Iterator[list[int]]:
    """Pairs in groups whose distinct sources have at most ``tokens`` tokens (or are one)."""
    by_source: dict[int, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_source.setdefault(pair.source, []).append(index)
    block: list[int] = []
    used = 0
    for source, own in by_source.items():
        if block and used + len(sources[source]) > tokens:
            yield block
            block, used = [], 0
        block = block + own
        used += len(sources[source])
    if block:
        yield block
