"""BM25 by hand, and cosines of sentence embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blender_med.errors import ConfigError, DataError
from blender_med.rankers.similarity import BM25Ranker, EmbeddingRanker, bm25_scores, stems


def test_stems_drop_stop_words_and_endings() -> None:
    assert stems("What are the Treatments of asthma, treating?") == ["treatment", "asthma", "treat"]
    assert stems("") == []


def test_bm25_by_hand() -> None:
    # Two documents of 2 and 4 terms; the term is twice in the second one only.
    scores = bm25_scores(
        np.array([1.0]),
        np.array([[0.0], [2.0]]),
        np.array([2.0, 4.0]),
        document_frequency=np.array([1.0]),
        n_documents=2,
        mean_length=3.0,
    )
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    norm = 1.5 * (0.25 + 0.75 * 4 / 3)
    assert scores == pytest.approx([0.0, idf * 2 * 2.5 / (2 + norm)])


def test_bm25_ranks_the_answer_that_shares_rare_words_first() -> None:
    candidates = ["asthma is treated with inhalers", "asthma runs in families", ""]
    [ranking] = BM25Ranker().rank(["How is asthma treated?"], [candidates])
    assert ranking.ranks == (1, 2, 3)
    assert ranking.scores[2] == 0.0


def test_statistics_come_from_the_corpus_or_else_from_the_question_alone() -> None:
    sources, candidates = ["rare common"], [["rare one", "common two"]]
    alone = BM25Ranker().rank(sources, candidates)
    assert alone[0].scores[0] == alone[0].scores[1]
    corpus = ["common"] * 9 + ["rare one", "common two"]
    [ranking] = BM25Ranker(corpus).rank(sources, candidates)
    assert ranking.ranks == (1, 2)
    together = BM25Ranker().rank(["rare common", "x"], [["rare one", "common two"], ["rare"]])
    assert together[0] == alone[0]


@pytest.mark.parametrize("texts", [["", ""], ["the of"], ["x"] * 3])
def test_bm25_of_nothing_in_common_is_a_tie_at_zero(texts: list[str]) -> None:
    [ranking] = BM25Ranker().rank(["What is asthma?"], [texts])
    assert set(ranking.scores) == {0.0} and set(ranking.ranks) == {1}


def test_bm25_refuses_a_question_without_candidates() -> None:
    with pytest.raises(DataError, match="no candidate"):
        BM25Ranker().rank(["q"], [[]])


@pytest.fixture(scope="module")
def minilm_like(tiny_model) -> EmbeddingRanker:
    return EmbeddingRanker.from_pretrained(tiny_model("bert"), max_length=40, device="cpu")


def test_cosine_of_mean_pooled_states(minilm_like: EmbeddingRanker, tiny_model) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_model("bert")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def vector(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(dim=0), dim=0)

    texts = ["a short one", "another, somewhat longer answer", ""]
    [ranking] = minilm_like.rank(["what is it?"], [texts])
    expected = [float(vector("what is it?") @ vector(text)) for text in texts]
    assert ranking.scores == pytest.approx(expected, abs=1e-5)


def test_scores_do_not_depend_on_order_batch_or_company(minilm_like: EmbeddingRanker) -> None:
    texts = ["one", "two and a half", "three " * 20, "", "one"]
    [alone] = minilm_like.rank(["number?"], [texts])
    [reverse] = minilm_like.rank(["number?"], [texts[::-1]], batch_tokens=1)
    assert reverse.scores[::-1] == pytest.approx(alone.scores, abs=1e-5)
    seen: list[int] = []
    ragged = minilm_like.rank(
        ["number?", "x", "y"], [texts, ["only"], ["a", "b"]], advance=seen.append
    )
    assert ragged[0].scores == pytest.approx(alone.scores, abs=1e-5)
    assert [len(r.scores) for r in ragged] == [5, 1, 2] and ragged[1].ranks == (1,)
    assert sum(seen) == 3


def test_a_long_text_is_cut_and_special_tokens_are_plain_text(minilm_like: EmbeddingRanker) -> None:
    long, longer = "word " * 100, "word " * 100_000
    marked, plain = "a [SEP] b [MASK]", "a   b  "
    [ranking] = minilm_like.rank(["q"], [[long, longer, marked, plain]])
    assert ranking.scores[0] == ranking.scores[1]
    assert ranking.scores[2] == pytest.approx(ranking.scores[3], abs=1e-6)


@pytest.mark.parametrize("length", [129, 2])
def test_a_length_that_does_not_fit_the_model_is_refused(tiny_model, length: int) -> None:
    with pytest.raises(ConfigError, match="max_length"):
        EmbeddingRanker.from_pretrained(tiny_model("bert"), max_length=length)


def test_no_question_gives_no_ranking(minilm_like: EmbeddingRanker) -> None:
    assert minilm_like.rank([], []) == []
    assert BM25Ranker().rank([], []) == []


@pytest.mark.slow
def test_minilm_prefers_the_answer_to_the_question() -> None:
    ranker = EmbeddingRanker.from_pretrained(device="cpu")
    [ranking] = ranker.rank(
        ["What are the symptoms of a heart attack?"],
        [["Bananas are rich in potassium.", "Chest pain, sweating and shortness of breath."]],
    )
    assert ranking.ranks == (2, 1)
