"""BERTScore (Zhang et al. 2020): greedy matching of contextual token embeddings.

Equal to bert-score 0.3.13 without baseline rescaling. That library is not taken itself: it does
not run beside transformers 5, and it pads texts to the longest of 64 both in the encoder and in
the matching.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blender_med.errors import ConfigError
from blender_med.metrics.config import BERTSCORE_LAYERS, BertScoreConfig
from blender_med.models import load_config, load_pretrained, load_tokenizer, torch_device

if TYPE_CHECKING:
    import torch

    from blender_med.metrics.contextual import Ids, Match, TokenEncoder

_NO_LIMIT = 10**6  # tokenizers without a limit name 10^30


class BertScores(NamedTuple):
    """Precision, recall and F1 of each pair, [n] each; higher is better, 1 for equal texts."""

    precision: list[float]
    recall: list[float]
    f1: list[float]


def bert_score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    model: str | Path | BertScorer,
    num_layers: int | None = None,
    idf: bool = False,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    allow_pickle: bool = False,
) -> BertScores:
    """BERTScore of ``hypotheses`` [n] against ``references`` [n].

    Precision is the weighted mean, over the tokens of the hypothesis, of the cosine with the most
    similar token of the reference; recall the same with the roles exchanged; F1 their harmonic
    mean (eqs. 1 to 3 of the paper). Special tokens can be matched but weigh nothing. A pair
    with an empty text, or one of blanks alone, scores 0. A text above the limit is cut.

    Args:
        hypotheses: Texts to judge.
        references: What they should say.
        model: Hub id, folder, ``package:NAME``, or a loaded scorer (which then decides all
            that follows).
        num_layers: Layer whose states are compared, 0 for the embeddings; None takes the one
            that bert-score tuned for the model.
        idf: Weigh a token by -log of the share of references that hold it, smoothed by one (eq. 5);
            ``references`` count as often as they stand in the list. Where all tokens of a text
            weigh 0 (bert-score gives NaN), they weigh the same.
        max_length: Most tokens of a text, special ones included; None takes the model's limit.
        batch_tokens: Most tokens of a batch; None fits the device.
        dtype: ``float32`` or ``bfloat16`` for the encoder; texts are matched in float32.
        device: Such as ``cuda:0``; None takes CUDA where there is one.
        allow_pickle: Read pickled weights where there are no safetensors.

    Returns:
        Three lists [n]; empty for no pair.

    Raises:
        ConfigError: There is no such model or layer, or none is tuned for the model.
        DataError: The weights do not fit, or are pickled.
        ValueError: The lists have different lengths.
    """
    scorer = model if isinstance(model, BertScorer) else BertScorer.load(
        model, num_layers=num_layers, idf=idf, max_length=max_length, batch_tokens=batch_tokens,
        dtype=dtype, device=device, allow_pickle=allow_pickle,
    )  # fmt: skip
    return scorer.score(hypotheses, references)


class BertScorer:
    """A loaded encoder that scores texts; build one with :meth:`load`."""

    def __init__(self, encoder: TokenEncoder, encoding: EncoderEncoding, *, idf: bool) -> None:
        self._encoder = encoder
        self._encoding = encoding
        self._idf = idf
        self._weights: TokenWeights | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        num_layers: int | None = None,
        idf: bool = False,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        allow_pickle: bool = False,
    ) -> BertScorer:
        """Load a model; arguments and errors as of :func:`bert_score`."""
        from blender_med.metrics.contextual import TokenEncoder

        where = torch_device(device)
        tokenizer = load_tokenizer(model, revision)
        encoder = _load_encoder(model, revision, num_layers, dtype=dtype, allow_pickle=allow_pickle)
        limits = [max_length, tokenizer.model_max_length, _positions(encoder)]
        encoding = EncoderEncoding(tokenizer, encoder.config.model_type, min(filter(None, limits)))
        pad = tokenizer.pad_token_id or 0
        return cls(TokenEncoder(encoder.to(where), pad, batch_tokens), encoding, idf=idf)

    @classmethod
    def from_config(cls, config: BertScoreConfig) -> BertScorer:
        """The scorer of a recipe."""
        return cls.load(
            config.model,
            revision=config.revision,
            num_layers=config.num_layers,
            idf=config.idf,
            max_length=config.max_length,
            batch_tokens=config.batch_tokens,
            dtype=config.dtype,
            device=config.device,
            allow_pickle=config.allow_pickle,
        )

    def use_references(self, references: Iterable[str]) -> None:
        """Weigh tokens by ``references`` from now on, not by those of each call."""
        if self._idf:
            self._weights = self._encoding.idf_weights(list(references))

    def score(
        self,
        hypotheses: Sequence[str],
        references: Sequence[str],
        *,
        advance: Callable[[float], None] | None = None,
    ) -> BertScores:
        """Scores of each pair; equal pairs are computed once.

        ``advance(share)`` reports a share of the work done; the shares sum to 1.
        """
        from blender_med.metrics.contextual import IndexPair

        pairs = list(zip(hypotheses, references, strict=True))
        distinct = list(dict.fromkeys(pairs))
        position = {text: i for i, text in enumerate(dict.fromkeys(t for p in distinct for t in p))}
        texts = self._encoding.ids(list(position))
        weights = self._weights or self._own_weights(references)
        indices = [IndexPair(position[h], position[r]) for h, r in distinct]
        values: dict[tuple[str, str], tuple[float, float, float]] = {}
        tokens = sum(len(text) for text in texts)
        tell = advance and (lambda done: advance(done / tokens))
        for i, match in self._encoder.matches(texts, indices, tell):
            hypothesis, reference = (texts[index] for index in indices[i])
            values[distinct[i]] = self._value(match, hypothesis, reference, weights)
        rows = [values[pair] for pair in pairs]
        return BertScores(*([row[k] for row in rows] for k in range(3)))

    def _own_weights(self, references: Sequence[str]) -> TokenWeights:
        encoding = self._encoding
        return encoding.idf_weights(references) if self._idf else encoding.plain_weights()

    def _value(
        self, match: Match, hypothesis: Ids, reference: Ids, weights: TokenWeights
    ) -> tuple[float, float, float]:
        if min(len(hypothesis), len(reference)) <= self._encoding.special_tokens:
            return 0.0, 0.0, 0.0
        precision = _mean(match.hypothesis, weights.of(hypothesis))
        recall = _mean(match.reference, weights.of(reference))
        total = precision + recall
        return precision, recall, 2 * precision * recall / total if total else 0.0

    def scores(
        self,
        candidates: Sequence[str],
        references: Sequence[str],
        names: Sequence[str],
        advance: Callable[[float], None] | None = None,
    ) -> Mapping[str, list[float]]:
        """``bertscore_p``, ``bertscore_r`` and ``bertscore_f1``, those in ``names``."""
        found = self.score(candidates, references, advance=advance)
        by_name = dict(zip(("bertscore_p", "bertscore_r", "bertscore_f1"), found, strict=True))
        return {name: by_name[name] for name in names}


def _mean(values: torch.Tensor, weights: Sequence[float]) -> float:
    numbers = values.tolist()
    total = math.fsum(weights)
    if not total:
        return math.fsum(numbers) / len(numbers)
    return math.fsum(w * v for w, v in zip(weights, numbers, strict=True)) / total


class TokenWeights:
    """Weight of each token id; ``other`` for ids that are not listed."""

    def __init__(self, weights: Mapping[int, float], other: float) -> None:
        self._weights = weights
        self._other = other

    def of(self, ids: Ids) -> list[float]:
        """Weights of the tokens of a text, [tokens]."""
        return [self._weights.get(token, self._other) for token in ids]


class EncoderEncoding:
    """Token ids as bert-score makes them: stripped, special tokens on, cut to the limit."""

    def __init__(self, tokenizer: Any, model_type: str, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        # RoBERTa has another token for a word after a blank; bert-score reads every text so.
        self._prefix = " " if model_type == "roberta" else ""
        self.special_tokens = int(tokenizer.num_special_tokens_to_add())

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; at least the special tokens."""
        if not texts:
            return []
        stripped = [text.strip() for text in texts]
        prepared = [self._prefix + text if text else "" for text in stripped]
        encoded = self._tokenizer(prepared, truncation=True, max_length=self._limit)
        found: list[list[int]] = encoded["input_ids"]
        return found

    def plain_weights(self) -> TokenWeights:
        """1 for every token, 0 for the special ones that open and close a text."""
        ends = (self._tokenizer.sep_token_id, self._tokenizer.cls_token_id)
        return TokenWeights({token: 0.0 for token in ends if token is not None}, 1.0)

    def idf_weights(self, documents: Sequence[str]) -> TokenWeights:
        """log((n + 1) / (c + 1)) for a token that c of the n documents hold."""
        sets = {text: set(ids) for text, ids in zip(documents, self.ids(documents), strict=True)}
        counts = Counter(token for text in documents for token in sets[text])
        n = len(documents) + 1
        return TokenWeights({t: math.log(n / (c + 1)) for t, c in counts.items()}, math.log(n))


def _load_encoder(
    model: str | Path,
    revision: str | None,
    num_layers: int | None,
    *,
    dtype: str,
    allow_pickle: bool,
) -> Any:
    """The encoder of a model without the layers above ``num_layers``."""
    from transformers import AutoModel

    config = load_config(model, revision)
    layers = BERTSCORE_LAYERS.get(str(model)) if num_layers is None else num_layers
    if layers is None:
        fix = f"set num_layers, 0 to {config.num_hidden_layers}"
        raise ConfigError("no layer is tuned for this model", key="model", value=str(model),
                          fix=fix)  # fmt: skip
    if not 0 <= layers <= config.num_hidden_layers:
        fix = f"choose 0 to {config.num_hidden_layers}"
        raise ConfigError("the model has no such layer", key="num_layers", value=layers, fix=fix)
    config.num_hidden_layers = layers
    settings = {"config": config, "revision": revision, "allow_pickle": allow_pickle}
    loaded = load_pretrained(AutoModel, model, dtype=dtype, optional="pooler", **settings)
    return loaded.get_encoder() if config.is_encoder_decoder else loaded


def _positions(encoder: Any) -> int | None:
    """Longest text the positions allow; None where they set no limit.

    RoBERTa and MPNet count positions from behind the padding token's id.
    """
    positions = getattr(encoder.config, "max_position_embeddings", None)
    embeddings = getattr(encoder, "embeddings", None)
    offset = int(getattr(embeddings, "padding_idx", -1)) + 1
    return int(positions) - offset if positions else None
