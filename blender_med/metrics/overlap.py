"""Overlap of a candidate with a reference: ROUGE, BLEU, chrF, and the length in words.

Every function takes [n] candidates and [n] references and returns [n] values; higher is better
but for ``length``, which only describes. An empty list gives an empty list. A candidate or a
reference without a token scores 0. Lists of different lengths raise ``ValueError``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

_BLEU_ORDER = 4
_CHRF_ORDER = 6
_CHRF_BETA_SQUARED = 4.0


def rouge1(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-1 F1 in 0..1 (Lin 2004), equal to rouge-score with ``use_stemmer=True``.

    LLM-Blender and lm-eval's summarisation tasks stem too; lm-eval's TruthfulQA does not.
    """
    return _map_pairs(lambda c, r: _rouge_n(c, r, 1), candidates, references)


def rouge2(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-2 F1 in 0..1; tokens as in :func:`rouge1`."""
    return _map_pairs(lambda c, r: _rouge_n(c, r, 2), candidates, references)


def rouge_l(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 in 0..1 from the longest common subsequence; tokens as in :func:`rouge1`."""
    return _map_pairs(_rouge_l, candidates, references)


def bleu(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence BLEU in 0..100: sacrebleu with effective order, 13a tokens, exp smoothing."""
    return _map_pairs(_bleu, candidates, references)


def chrf(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence chrF in 0..100 (Popovic 2015): character 1- to 6-grams, beta 2, no whitespace.

    Equal to sacrebleu's ``CHRF().sentence_score``.
    """
    return _map_pairs(_chrf, candidates, references)


def length(candidates: Sequence[str], references: Sequence[str]) -> list[float]:
    """Words (runs of non-blanks) of each candidate; the references are not looked at."""
    return _map_pairs(lambda c, _: float(len(c.split())), candidates, references)


def _map_pairs(
    score: Callable[[str, str], float], candidates: Sequence[str], references: Sequence[str]
) -> list[float]:
    return [score(c, r) for c, r in zip(candidates, references, strict=True)]


def _matches(left: Mapping[Any, int], right: Mapping[Any, int]) -> int:
    """Size of the intersection of two multisets."""
    common = left.keys() & right.keys()
    return sum(map(min, map(left.__getitem__, common), map(right.__getitem__, common)))


def _f1(hits: int, candidate_size: int, reference_size: int) -> float:
    if not hits:
        return 0.0
    precision, recall = hits / candidate_size, hits / reference_size
    return 2 * precision * recall / (precision + recall)


@lru_cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


class _CachedStemmer:
    """Porter stemmer that remembers words: stemming is most of the time of ROUGE."""

    stem = staticmethod(lru_cache(maxsize=200_000)(lambda word: _stemmer().stem(word)))


@lru_cache(maxsize=8192)
def _rouge_tokens(text: str) -> tuple[str, ...]:
    from rouge_score.tokenize import tokenize

    return tuple(tokenize(text, _CachedStemmer))


def _rouge_n(candidate: str, reference: str, order: int) -> float:
    left, right = _ngrams(_rouge_tokens(candidate), order), _ngrams(_rouge_tokens(reference), order)
    return _f1(_matches(left, right), left.total(), right.total())


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _rouge_l(candidate: str, reference: str) -> float:
    left, right = _rouge_tokens(candidate), _rouge_tokens(reference)
    return _f1(longest_common_subsequence(left, right), len(left), len(right))


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token sequences; 0 if one is empty.

    Bit-parallel (Hyyro 2004, "Bit-parallel LCS-length computation revisited"): one row of the
    dynamic programme is one integer, where a cleared bit is a step of the length.
    """
    positions: dict[str, int] = {}
    for index, token in enumerate(left):
        positions[token] = positions.get(token, 0) | 1 << index
    mask = (1 << len(left)) - 1
    row = mask
    for token in right:
        common = row & positions.get(token, 0)
        row = ((row + common) | (row - common)) & mask
    return len(left) - row.bit_count()


@lru_cache
def _bleu_metric() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@lru_cache(maxsize=256)
def _word_ngrams(text: str) -> tuple[Counter[tuple[str, ...]], int]:
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    return extract_all_word_ngrams(_bleu_metric().tokenizer(text.rstrip()), 1, _BLEU_ORDER)


def _bleu(candidate: str, reference: str) -> float:
    (left, candidate_length), (right, reference_length) = map(_word_ngrams, (candidate, reference))
    matched, total = [0] * _BLEU_ORDER, [0] * _BLEU_ORDER
    for ngram, count in left.items():
        total[len(ngram) - 1] += count
        matched[len(ngram) - 1] += min(count, right.get(ngram, 0))
    metric = _bleu_metric()
    result = metric.compute_bleu(
        matched, total, candidate_length, reference_length, metric.smooth_method, None, True
    )
    return float(result.score)


@lru_cache(maxsize=32)
def _character_ngrams(text: str) -> tuple[tuple[Counter[str], int], ...]:
    """Counts and their total per order; few are kept, for one profile takes about a megabyte."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    return tuple((c, c.total()) for c in extract_all_char_ngrams(text, _CHRF_ORDER))


@lru_cache(maxsize=1024)
def _character_matches(left: str, right: str) -> tuple[int, ...]:
    """Matches per order; symmetric, so that MBR decoding needs each pair of texts once."""
    profiles = zip(_character_ngrams(left), _character_ngrams(right), strict=True)
    return tuple(_matches(a, b) for (a, _), (b, _) in profiles)


def _chrf(candidate: str, reference: str) -> float:
    precision = recall = orders = 0.0
    matches = _character_matches(*sorted((candidate, reference)))
    totals = zip(_character_ngrams(candidate), _character_ngrams(reference), strict=True)
    for hits, ((_, candidate_total), (_, reference_total)) in zip(matches, totals, strict=True):
        if candidate_total and reference_total:
            precision, recall = precision + hits / candidate_total, recall + hits / reference_total
            orders += 1
    if not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    factor = 1 + _CHRF_BETA_SQUARED
    return 100 * factor * precision * recall / (_CHRF_BETA_SQUARED * precision + recall)
