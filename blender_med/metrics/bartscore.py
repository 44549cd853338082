"""BARTScore (Yuan, Neubig and Liu 2021, eq. 1): mean log-likelihood of a target given a source.

No package of that name exists. The definition is the one of the authors' scorer: source and
target are tokenised with their special tokens and cut to ``max_length``; the score is the mean
over the target's tokens, its opening and closing token included, of their log-probability in
nats. It is below 0; higher is better. An empty text is its special tokens, which gives it a value
like any other's. A target that spells out the padding token gets a log-probability of 0 for it,
as in the authors' scorer. A token that the model has no embedding for (``<mask>`` of
bart-large-cnn; the authors' scorer fails) is left out.

Decoder-only models are a variant of our own: the source, a line break, then the target with its
end-of-text token; the mean is over the target's tokens and the end. An empty target is scored by
its end alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

from blender_med.errors import ConfigError, DataError
from blender_med.metrics.config import BartScoreConfig
from blender_med.models import (
    embedding_rows,
    load_config,
    load_pretrained,
    load_tokenizer,
    torch_device,
)

if TYPE_CHECKING:
    from blender_med.metrics.conditional import Likelihood

MAX_LENGTH = 1024


def bart_score(
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    model: str | Path | BartScorer,
    max_length: int = MAX_LENGTH,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    state_dict: str | Path | None = None,
    allow_pickle: bool = False,
) -> list[float]:
    """Mean log-likelihood per token of ``targets`` [n] given ``sources`` [n].

    The authors call (candidate -> reference) recall, (reference -> candidate) precision, and
    (question or document -> candidate) faithfulness.

    Args:
        sources: Texts that are read.
        targets: Texts whose likelihood is wanted.
        model: Hub id, folder, ``package:NAME``, or a loaded scorer (which then decides all
            that follows).
        max_length: Most tokens of a source and of a target; with a decoder-only model of both
            together, where the target has at most half of them.
        batch_tokens: Most tokens of a batch; None fits the device.
        dtype: ``float32`` or ``bfloat16``.
        device: Such as ``cuda:0``; None takes CUDA where there is one.
        state_dict: File of fine-tuned weights, such as the authors' ``bart.pth``.
        allow_pickle: Read pickled weights of ``model`` where there are no safetensors.

    Returns:
        [n], nats, higher is better; [] for [].

    Raises:
        ConfigError: There is no such model, or its architecture is not supported.
        DataError: The weights do not fit, or are pickled.
        ValueError: The lists have different lengths.
    """
    scorer = model if isinstance(model, BartScorer) else BartScorer.load(
        model, max_length=max_length, batch_tokens=batch_tokens, dtype=dtype, device=device,
        state_dict=state_dict, allow_pickle=allow_pickle,
    )  # fmt: skip
    return scorer.score(sources, targets)


def multi_ref_bart_score(
    sources: Sequence[str],
    targets: Sequence[Sequence[str]],
    *,
    agg: Literal["max", "mean"] = "max",
    **settings: Any,
) -> list[float]:
    """Best or mean score of several targets for each source.

    Args:
        sources: [n].
        targets: At least one for each source, [n][k]; k may differ.
        agg: How the scores of one source are joined.
        settings: As of :func:`bart_score`.

    Raises:
        ValueError: A source has no target, or the lists have different lengths.
    """
    if len(sources) != len(targets) or not all(targets):
        raise ValueError("each source needs at least one target")
    flat = [(s, t) for s, own in zip(sources, targets, strict=True) for t in own]
    scores = iter(bart_score([s for s, _ in flat], [t for _, t in flat], **settings))
    rows = [[next(scores) for _ in own] for own in targets]
    return [max(row) if agg == "max" else sum(row) / len(row) for row in rows]


class BartScorer:
    """A loaded model that scores texts; build one with :meth:`load`."""

    def __init__(self, likelihood: Likelihood, encoding: Seq2SeqEncoding | CausalEncoding) -> None:
        self._likelihood = likelihood
        self._encoding = encoding

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        state_dict: str | Path | None = None,
        max_length: int = MAX_LENGTH,
        batch_tokens: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        allow_pickle: bool = False,
    ) -> BartScorer:
        """Load a model; arguments and errors as of :func:`bart_score`."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        from blender_med.metrics.conditional import CausalLikelihood, Seq2SeqLikelihood

        config = load_config(model, revision)
        paired = bool(config.is_encoder_decoder)
        auto_class = AutoModelForSeq2SeqLM if paired else AutoModelForCausalLM
        loaded = load_pretrained(
            auto_class, model, dtype=dtype, revision=revision, allow_pickle=allow_pickle
        )
        if state_dict is not None:
            load_state(loaded, Path(state_dict))
        loaded.to(torch_device(device))
        limit = min(max_length, getattr(config, "max_position_embeddings", None) or max_length)
        tokenizer = load_tokenizer(model, revision)
        if paired:
            encoding = Seq2SeqEncoding(tokenizer, limit, embedding_rows(loaded))
            return cls(Seq2SeqLikelihood(loaded, batch_tokens), encoding)
        return cls(
            CausalLikelihood(loaded, batch_tokens),
            CausalEncoding(tokenizer, limit, embedding_rows(loaded)),
        )

    @classmethod
    def from_config(cls, config: BartScoreConfig) -> BartScorer:
        """The scorer of a recipe."""
        return cls.load(
            config.model,
            revision=config.revision,
            state_dict=config.state_dict,
            max_length=config.max_length,
            batch_tokens=config.batch_tokens,
            dtype=config.dtype,
            device=config.device,
            allow_pickle=config.allow_pickle,
        )

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        advance: Callable[[float], None] | None = None,
    ) -> list[float]:
        """Scores of ``targets`` [n] given ``sources`` [n]; equal pairs are computed once.

        ``advance(share)`` reports a share of the work done; the shares sum to 1.
        """
        from blender_med.metrics.conditional import Pair

        pairs = list(zip(sources, targets, strict=True))
        distinct = list(dict.fromkeys(pairs))
        position = {text: i for i, text in enumerate(dict.fromkeys(s for s, _ in distinct))}
        endings = list(dict.fromkeys(t for _, t in distinct))
        target_ids = dict(zip(endings, self._encoding.targets(endings), strict=True))
        values = self._likelihood.means(
            self._encoding.sources(list(position)),
            [Pair(position[s], target_ids[t]) for s, t in distinct],
            advance and (lambda done: advance(done / len(distinct))),
        )
        by_pair = dict(zip(distinct, values, strict=True))
        return [by_pair[pair] for pair in pairs]

    def use_references(self, references: Iterable[str]) -> None:
        """Nothing to learn from the references of a run."""

    def scores(
        self,
        candidates: Sequence[str],
        references: Sequence[str],
        names: Sequence[str],
        advance: Callable[[float], None] | None = None,
    ) -> Mapping[str, list[float]]:
        """``bartscore`` (candidate -> reference) and ``bartscore_reverse``, those in ``names``."""
        directions = {
            "bartscore": (candidates, references),
            "bartscore_reverse": (references, candidates),
        }
        tell = advance and (lambda share: advance(share / len(names)))
        return {name: self.score(*directions[name], advance=tell) for name in names}


class Seq2SeqEncoding:
    """Token ids as the authors' scorer makes them: special tokens on, cut to the limit."""

    def __init__(self, tokenizer: Any, limit: int, embeddings: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._embeddings = embeddings

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; at least the special tokens."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._limit)
        return _readable(encoded["input_ids"], self._embeddings)

    targets = sources


class CausalEncoding:
    """Token ids of a prompt (source and line break) and of a target with its closing token."""

    def __init__(self, tokenizer: Any, limit: int, embeddings: int) -> None:
        if tokenizer.eos_token_id is None:
            fix = "choose a model whose tokenizer has an eos_token"
            raise ConfigError("the tokenizer names no end of text", key="model", fix=fix)
        self._tokenizer = tokenizer
        self._embeddings = embeddings
        self._target_limit = limit // 2
        self._source_limit = limit - self._target_limit
        self._eos: int = tokenizer.eos_token_id
        self._start = [tokenizer.eos_token_id if tokenizer.bos_token_id is None
                       else tokenizer.bos_token_id]  # fmt: skip
        self._break = self._ids(["\n"])[0]

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Start token, text and line break; cut before the line break."""
        room = self._source_limit - len(self._start) - len(self._break)
        return [[*self._start, *ids[: max(0, room)], *self._break] for ids in self._ids(texts)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Text and end token; a text that is too long is cut and keeps its end token."""
        return [[*ids[: self._target_limit - 1], self._eos] for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False)
        return _readable(encoded["input_ids"], self._embeddings)


def _readable(rows: Sequence[Sequence[int]], embeddings: int) -> list[list[int]]:
    """Rows of token ids without those that a model of so many embeddings cannot read."""
    return [[token for token in row if token < embeddings] for row in rows]


def load_state(model: Any, file: Path) -> None:
    """Load fine-tuned weights from ``.safetensors`` or from a file of ``torch.save``.

    A pickle is read with ``weights_only``: it can hold tensors and nothing else.

    Raises:
        DataError: The file is missing or damaged, or its weights do not fit the model.
    """
    fix = "name the state dict of a model of the same architecture"
    try:
        state = _read_state(file)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot load the state dict: {reason}", file=file, fix=fix) from error
    lost = _not_tied(model, missing, state)
    if lost or unexpected:
        problem = f"{len(lost)} weights are missing and {len(unexpected)} are unknown"
        raise DataError(problem, file=file, value=[*lost, *unexpected][:3], fix=fix)


def _read_state(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _not_tied(model: Any, missing: Sequence[str], state: Mapping[str, Any]) -> list[str]:
    """Missing names whose tensor is not loaded under another name."""
    own = model.state_dict(keep_vars=True)
    loaded = {own[name].data_ptr() for name in state if name in own}
    return [name for name in missing if own[name].data_ptr() not in loaded]
