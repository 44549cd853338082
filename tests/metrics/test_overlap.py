"""ROUGE, BLEU, chrF and length: hand-derived values, properties, parity with the references."""

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_med.metrics import METRIC_SPECS, METRICS
from blender_med.metrics.overlap import (
    bleu,
    chrf,
    length,
    longest_common_subsequence,
    rouge1,
    rouge2,
    rouge_l,
)

TEXT_METRICS = [
    name for name, spec in METRIC_SPECS.items() if spec.task == "long" and spec.model is None
]
VOCABULARY = ["fever", "feverish", "cough", "coughs", "a", "b", ",", "."]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=40))


def test_rouge_of_a_worked_example():
    # 3 shared unigrams of 4 and 6; 1 shared bigram (the cat) of 3 and 5; LCS "the cat mat".
    candidate, reference = ["the cat mat now"], ["the cat on the mat today"]
    assert rouge1(candidate, reference) == [pytest.approx(2 * 0.75 * 0.5 / 1.25)]
    assert rouge2(candidate, reference) == [pytest.approx(2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5))]
    assert rouge_l(candidate, reference) == [pytest.approx(2 * 0.75 * 0.5 / 1.25)]


def test_rouge_stems_long_words():
    assert rouge1(["treating infections"], ["treated infection"]) == [1.0]


def test_bleu_of_a_worked_example():
    # "a b c" in "a b c d": all n-grams match, order 3 is the longest, brevity exp(1 - 4/3).
    assert bleu(["a b c"], ["a b c d"]) == [pytest.approx(100 * math.exp(-1 / 3))]


def test_chrf_of_a_worked_example():
    # "ab" against "abc": precision 1 and 1 at orders 1 and 2; recall 2/3 and 1/2, mean 7/12.
    expected = 100 * 5 * 1 * (7 / 12) / (4 * 1 + 7 / 12)
    assert chrf(["ab"], ["abc"]) == [pytest.approx(expected)]


def test_length_counts_words_and_needs_no_direction():
    assert length(["two words", "", " a\nb  c "], ["x", "x", "x"]) == [2.0, 0.0, 3.0]
    assert not METRIC_SPECS["length"].directed


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_empty_input(name):
    score = METRICS.load(name)
    assert score([], []) == []
    if name != "length":
        assert score(["", "text", "", "!?"], ["text", "", "", "word"]) == [0.0] * 4


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_unequal_lists_are_refused(name):
    with pytest.raises(ValueError):
        METRICS.load(name)(["a"], [])


@pytest.mark.parametrize(
    ("name", "best"), [("rouge1", 1), ("rougeL", 1), ("bleu", 100), ("chrf", 100)]
)
def test_equal_texts_score_best(name, best):
    text = "Fever and cough are common symptoms of influenza."
    assert METRICS.load(name)([text], [text]) == [pytest.approx(best)]


@given(
    st.lists(st.sampled_from("abcd"), max_size=70), st.lists(st.sampled_from("abcd"), max_size=70)
)
@settings(max_examples=60, deadline=None)
def test_subsequence_equals_the_dynamic_programme(left, right):
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            best = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else best
    assert longest_common_subsequence(left, right) == table[-1][-1]


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
@settings(max_examples=60, deadline=None)
def test_parity_with_rouge_score_and_sacrebleu(pairs):
    # The same integer counts enter the same formulas: only the order of float operations differs.
    compare_with_references([c for c, _ in pairs], [r for _, r in pairs])


def test_parity_on_real_answers(shared_data: Path):
    path = next((shared_data / "medquad" / "liveqa_med_qrels").glob("All-2479-Answers*.csv"))
    with path.open(encoding="utf-8", newline="") as file:
        texts = [row["Answer"][:1200] for row in csv.DictReader(file)][:40]
    compare_with_references(texts, texts[1:] + texts[:1])


def compare_with_references(candidates, references):
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    expected = [scorer.score(r, c) for c, r in zip(candidates, references, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        values = METRICS.load(name)(candidates, references)
        assert values == pytest.approx([e[name].fmeasure for e in expected], abs=1e-12)
    for name, metric in (("bleu", BLEU(effective_order=True)), ("chrf", CHRF())):
        pairs = zip(candidates, references, strict=True)
        theirs = [metric.sentence_score(c, [r]).score for c, r in pairs]
        assert METRICS.load(name)(candidates, references) == pytest.approx(theirs, abs=1e-9)
