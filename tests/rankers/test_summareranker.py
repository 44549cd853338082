"""SummaReranker: probabilities, its loss, training batches, save and load."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blender_med.data.pairs import RankingExample
from blender_med.errors import ConfigError
from blender_med.rankers.summareranker import SummaReranker

LABELS = np.array([[0.2, 5.0], [0.9, 1.0], [0.5, 5.0], [0.1, 0.0]])
EXAMPLES = [
    RankingExample("a", "what is a?", ("w", "x", "y", "z"), LABELS),
    RankingExample("b", "and b?", ("no", "yes"), np.array([[0.1, 0.1], [0.2, 0.2]])),
]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def ranker(request, tiny_model) -> SummaReranker:
    torch.manual_seed(0)
    folder = tiny_model(request.param)
    model = SummaReranker.from_backbone(
        folder, n_tasks=2, source_maxlength=32, candidate_maxlength=48
    )
    return model.eval()


def _probability(ranker: SummaReranker, source: str, candidate: str) -> float:
    with torch.no_grad():
        inputs = ranker.tokenizer(source, candidate, return_tensors="pt")
        return float(ranker(**inputs).logits[0].mean().sigmoid())


def test_score_is_what_the_model_says_of_the_tokenizers_pair(ranker: SummaReranker) -> None:
    texts = ["an answer", "another answer", ""]
    [ranking] = ranker.rank(["what?"], [texts])
    expected = [_probability(ranker, "what?", text) for text in texts]
    assert ranking.scores == pytest.approx(expected, abs=1e-5)
    assert all(0 < score < 1 for score in ranking.scores)


def test_scores_do_not_depend_on_order_batch_or_company(ranker: SummaReranker) -> None:
    texts = ["one", "two and a half", "three " * 30, "", "one"]
    [alone] = ranker.rank(["number?"], [texts])
    [reverse] = ranker.rank(["number?"], [texts[::-1]], batch_tokens=1)
    assert reverse.scores[::-1] == pytest.approx(alone.scores, abs=1e-6)
    ragged = ranker.rank(["number?", "x"], [texts, ["only"]])
    assert ragged[0].scores == pytest.approx(alone.scores, abs=1e-6)
    assert ragged[1].ranks == (1,) and alone.scores[0] == alone.scores[4]


def test_a_training_batch_holds_best_and_worst_with_targets_among_all(ranker) -> None:
    # Means of the labels: w 2.6, x 0.95, y 2.75, z 0.05; y ties with w for the best of task 2.
    batch = ranker.training_batch(EXAMPLES, np.random.default_rng(0))
    tokenizer = ranker.tokenizer
    pairs = [("what is a?", "y"), ("what is a?", "z"), ("and b?", "no"), ("and b?", "yes")]
    rows = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert rows == [tokenizer(*pair)["input_ids"] for pair in pairs]
    assert batch["labels"].tolist() == [[0, 1], [0, 0], [0, 0], [1, 1]]


def test_loss_is_the_cross_entropy_against_being_the_best(ranker: SummaReranker) -> None:
    batch = ranker.training_batch(EXAMPLES, np.random.default_rng(0))
    output = ranker(**batch)
    p, y = output.logits.sigmoid(), batch["labels"]
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_every_candidate_is_taken_where_there_are_few(tiny_model) -> None:
    settings = {"n_tasks": 2, "num_pos": 3, "num_neg": 3}
    lengths = {"source_maxlength": 16, "candidate_maxlength": 16}
    model = SummaReranker.from_backbone(tiny_model("bert"), **settings, **lengths)
    batch = model.training_batch(EXAMPLES, np.random.default_rng(0))
    assert len(batch["input_ids"]) == 6
    assert batch["labels"][:4].tolist() == [[0, 1], [1, 0], [0, 1], [0, 0]]


def test_training_orders_the_candidates(tiny_model) -> None:
    torch.manual_seed(0)
    model = SummaReranker.from_backbone(
        tiny_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        source_maxlength=16, candidate_maxlength=16,
    )  # fmt: skip
    example = RankingExample("a", "what is it?", ("bad", "good"), np.array([[0.0], [1.0]]))
    batch = model.training_batch([example], np.random.default_rng(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    [ranking] = model.rank([example.source], [example.candidates])
    assert model.training
    assert ranking.ranks == (2, 1)


def test_saved_and_loaded_ranker_gives_the_same_scores(ranker: SummaReranker, tmp_path) -> None:
    ranker.save_pretrained(tmp_path)
    again = SummaReranker.from_pretrained(tmp_path)
    assert again.config.n_tasks == 2 and not again.training
    sources, candidates = ["what?", "x"], [["one", "two [SEP] </s> three"], [""]]
    for old, new in zip(
        ranker.rank(sources, candidates), again.rank(sources, candidates), strict=True
    ):
        assert new.scores == pytest.approx(old.scores, abs=1e-6)


def test_special_tokens_inside_texts_do_not_move_the_border(ranker: SummaReranker) -> None:
    marks = ranker.tokenizer.sep_token, ranker.tokenizer.cls_token
    texts = [f"a {mark} b" for mark in marks] + ["a   b"]
    scores = ranker.rank([f"q {marks[0]} q"], [texts])[0].scores
    assert scores == pytest.approx([scores[2]] * 3, abs=1e-6)


def test_lengths_beyond_the_backbone_are_refused(tiny_model) -> None:
    model = SummaReranker.from_backbone(tiny_model("bert"))
    with pytest.raises(ConfigError, match="128 positions"):
        model.rank(["q"], [["a"]])
