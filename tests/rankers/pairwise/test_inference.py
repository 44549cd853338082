"""Ranking texts: equal to the model's forward whatever the batch, defined for odd input."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from blender_med.errors import ConfigError, DataError
from blender_med.rankers import inference
from blender_med.rankers.collate import Pair, collate
from blender_med.rankers.encoders import PrefixEncoder
from blender_med.rankers.pairranker import PairRanker

from .conftest import BACKBONES

SOURCE = "what treats fever ?"
TEXTS = ["the liver .", "a dose of the heart is a risk . " * 4, "cough", "kidney pain causes fever"]


def forward(ranker: PairRanker, source: str, texts: list[str]) -> np.ndarray:
    """All ordered pairs, each by itself through the model's forward."""
    encoder, size = ranker.encoder, len(texts)
    question, ids = encoder.sources([source])[0], encoder.candidates(texts)
    logits = np.zeros((size, size))
    for i, j in np.argwhere(~np.eye(size, dtype=bool)):
        pair = encoder.pair(question, ids[i], ids[j])
        batch = collate([pair], encoder.pad_id, is_encoder_decoder=ranker.is_encoder_decoder)
        with torch.inference_mode():
            logits[i, j] = ranker(**batch).logits.item()
    return logits


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_logits_equal_the_forward_of_each_pair(family, batch_tokens, make_ranker):
    ranker = make_ranker(family)
    expected = forward(ranker, SOURCE, TEXTS)
    assert np.abs(expected).max() > 0.5
    found = ranker.pairwise_logits(SOURCE, TEXTS, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "variant",
    [
        {"share_att_key": False},
        {"pos_att_type": ["c2p"]},
        {"pos_att_type": ["p2c"], "share_att_key": False},
        {"position_buckets": -1, "max_relative_positions": 12},
        {"norm_rel_ebd": "none", "position_biased_input": True, "type_vocab_size": 2},
        {"conv_kernel_size": 3},
        {"relative_attention": False},
        {"hidden_act": "relu"},
    ],
)
def test_variants_of_deberta(variant, tmp_path):
    from .conftest import write_backbone

    folder = write_backbone("deberta-v2", tmp_path / "backbone", **variant)
    ranker = PairRanker.from_backbone(folder, source_maxlength=24, candidate_maxlength=20).eval()
    found = ranker.pairwise_logits(SOURCE, TEXTS)
    np.testing.assert_allclose(found, forward(ranker, SOURCE, TEXTS), rtol=0, atol=5e-5)


def test_long_rows_are_done_in_blocks(make_ranker, monkeypatch):
    from blender_med.rankers import disentangled

    ranker = make_ranker("deberta-v2")
    expected = ranker.pairwise_logits(SOURCE, TEXTS)
    monkeypatch.setattr(disentangled, "_CPU_BLOCK", 1)
    ranker.head_layer[4].bias.data += 0.0  # prepares the layers anew
    np.testing.assert_allclose(ranker.pairwise_logits(SOURCE, TEXTS), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "t5"])
def test_bfloat16_is_as_near_as_the_model_of_transformers_in_bfloat16(family, make_ranker):
    ranker = make_ranker(family)
    exact = ranker.pairwise_logits(SOURCE, TEXTS)
    near = ranker.pairwise_logits(SOURCE, TEXTS, dtype="bfloat16")
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    theirs = np.abs(forward(make_ranker(family).to(torch.bfloat16), SOURCE, TEXTS) - exact).max()
    # Seen over 16 random heads: 0.5 to 1.3 times their error.
    assert np.abs(near - exact).max() <= 2 * theirs
    assert ranker.dtype == torch.float32
    np.testing.assert_array_equal(ranker.pairwise_logits(SOURCE, TEXTS), exact)


def test_batches_on_a_cpu_have_few_different_sizes(make_ranker):
    ranker, sizes = make_ranker("bert"), set()
    hook = ranker.pretrained_model.embeddings.register_forward_pre_hook(
        lambda _, args, given: sizes.add(given["input_ids"].numel()), with_kwargs=True
    )
    sources = [f"{SOURCE} {'fever ' * i}" for i in range(12)]
    ranker.rank(sources, [TEXTS] * len(sources), batch_tokens=600)
    hook.remove()
    assert sizes
    assert all(size % 128 == 0 for size in sizes)


@pytest.mark.parametrize("lengths", [(5,), (3, 3), (40, 41, 42), (128,), (7,) * 9, (3,) * 50])
def test_what_fills_a_batch_is_no_longer_than_its_rows(lengths, make_ranker):
    ranker = make_ranker("roberta")
    encoder = PrefixEncoder(ranker.pretrained_model, ranker.encoder.opening, torch.float32)
    pairs = [Pair([0], [0], [0] * (length - 2)) for length in lengths]
    filling = encoder._filling(pairs)
    assert sum(row.length for row in [*pairs, *filling]) % 128 == 0
    assert (len(pairs) + len(filling)) % 8 == 0
    assert all(0 < row.length <= max(lengths) for row in filling)


def test_scores_and_ranks_follow_from_the_logits(make_ranker):
    ranker = make_ranker()
    logits = forward(ranker, SOURCE, TEXTS)
    (result,) = ranker.rank([SOURCE], [TEXTS])
    expected = (logits - logits.T).mean(axis=1)
    np.testing.assert_allclose(result.scores, expected, atol=5e-5)
    assert list(result.ranks) == (1 + np.argsort(np.argsort(-expected))).tolist()
    (wins,) = ranker.rank([SOURCE], [TEXTS], aggregation="max_wins")
    counts = ((logits > 0).sum(axis=1) + (logits < 0).sum(axis=0)).tolist()
    assert list(wins.scores) == counts


def test_questions_may_have_different_numbers_of_candidates(make_ranker):
    ranker = make_ranker()
    groups = [TEXTS[:2], TEXTS, TEXTS[3:], TEXTS[1:]]
    sources = [SOURCE, "risk ?", "heart", ""]
    together = ranker.rank(sources, groups)
    for source, group, result in zip(sources, groups, together, strict=True):
        np.testing.assert_allclose(
            result.pairwise_logits, ranker.pairwise_logits(source, group), atol=5e-5
        )
        assert len(result.scores) == len(result.ranks) == len(group)


def test_tokens_and_comparisons_are_counted(make_ranker):
    ranker = make_ranker()
    (result,) = ranker.rank([SOURCE], [TEXTS])
    encoder = ranker.encoder
    question, ids = encoder.sources([SOURCE])[0], encoder.candidates(TEXTS)
    pairs = [encoder.pair(question, a, b) for a in ids for b in ids if a is not b]
    assert result.comparisons == len(pairs) == 12
    assert result.tokens == sum(pair.length for pair in pairs)


def test_one_candidate_needs_no_comparison(make_ranker):
    (result,) = make_ranker().rank([SOURCE], [["fever"]])
    assert (result.scores, result.ranks, result.comparisons) == ((0.0,), (1,), 0)
    np.testing.assert_array_equal(result.pairwise_logits, [[0.0]])


def test_equal_candidates_are_computed_once_and_tie(make_ranker):
    ranker = make_ranker()
    group = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]]
    (result,) = ranker.rank([SOURCE], [group])
    # Two orders of the pair, and the repeated text with itself.
    assert result.comparisons == 3
    np.testing.assert_allclose(
        result.pairwise_logits, forward(ranker, SOURCE, group), rtol=0, atol=5e-5
    )
    assert result.ranks[0] == result.ranks[2] == result.ranks[3] != result.ranks[1]


def test_candidates_equal_as_far_as_they_are_read_tie(make_ranker):
    group = [TEXTS[1] * 9 + "pain", TEXTS[1] * 9 + "risk"]
    (result,) = make_ranker().rank([SOURCE], [group])
    assert result.ranks == (1, 1)


def test_empty_texts_are_ranked(make_ranker):
    ranker = make_ranker()
    (alike,) = ranker.rank([""], [["", "", ""]])
    assert (alike.ranks, alike.scores) == ((1, 1, 1), (0.0, 0.0, 0.0))
    (mixed,) = ranker.rank([""], [["", "fever"]])
    assert sorted(mixed.ranks) == [1, 2]


def test_a_very_long_candidate_is_cut(make_ranker):
    ranker = make_ranker()
    (result,) = ranker.rank([SOURCE], [["fever " * 100_000, "cough"]])
    assert np.isfinite(result.scores).all()
    assert result.tokens < 200


@pytest.mark.parametrize("text", ["<|candidate|>", "<|source|> x <|candidate1|>", "[SEP][SEP]"])
def test_special_tokens_in_texts_do_no_harm(text, make_ranker):
    ranker = make_ranker()
    found = ranker.pairwise_logits(text, [text, "cough", f"a {text} b"])
    clean = text
    for token in ("<|source|>", "<|candidate|>", "<|candidate1|>", "[SEP]"):
        clean = clean.replace(token, " ")
    np.testing.assert_array_equal(
        found, ranker.pairwise_logits(clean, [clean, "cough", f"a {clean} b"])
    )


def test_no_question_gives_no_ranking(make_ranker):
    assert make_ranker().rank([], []) == []


@pytest.mark.parametrize(
    ("sources", "groups", "message"),
    [
        (["a", "b"], [["x"]], "2 sources but 1 lists"),
        (["a", "b"], [["x"], []], "row 2: no candidate"),
        (["a"], ["xy"], "row 1: no candidate"),
        (["a"], [["x", None]], r"row 1: a text is no string \(received None\)"),
        ([3], [["x"]], "row 1: a text is no string"),
    ],
)
def test_bad_input_is_named(sources, groups, message, make_ranker):
    with pytest.raises(DataError, match=message):
        make_ranker().rank(sources, groups)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("strategy", "ful"),
        ("aggregation", "maxlogits"),
        ("top_k", 0),
        ("batch_tokens", 0),
        ("dtype", "bf16"),
    ],
)
def test_wrong_settings_are_named(setting, value, make_ranker):
    with pytest.raises(ConfigError, match=f"'{setting}'.*{value}"):
        make_ranker().rank([SOURCE], [TEXTS], **{setting: value})


def test_progress_counts_every_question_in_windows(make_ranker, monkeypatch):
    monkeypatch.setattr(inference, "_WINDOW", 13)
    steps: list[int] = []
    ranker = make_ranker()
    groups = [TEXTS[:3], TEXTS[:3], TEXTS, TEXTS, TEXTS[:1]]
    found = ranker.rank([SOURCE] * 5, groups, advance=steps.append)
    # 6 + 6 + 12 pairs; 12 + 0.
    assert steps == [3, 2]
    monkeypatch.undo()
    for result, whole in zip(found, ranker.rank([SOURCE] * 5, groups), strict=True):
        np.testing.assert_allclose(result.pairwise_logits, whole.pairwise_logits, atol=5e-5)


def test_new_weights_are_noticed_and_the_mode_is_kept(make_ranker):
    ranker = make_ranker()
    before = ranker.pairwise_logits(SOURCE, TEXTS)
    ranker.train()
    np.testing.assert_array_equal(ranker.pairwise_logits(SOURCE, TEXTS), before)
    assert ranker.training
    with torch.no_grad():
        ranker.pretrained_model.encoder.layer[1].output.dense.weight.mul_(1.5)
    after = ranker.pairwise_logits(SOURCE, TEXTS)
    np.testing.assert_allclose(after, forward(ranker.eval(), SOURCE, TEXTS), atol=5e-5)
    assert not np.allclose(after, before, atol=1e-3)


def test_what_is_prepared_does_not_keep_a_ranker_alive(make_ranker):
    ranker = make_ranker()
    ranker.pairwise_logits(SOURCE, TEXTS)
    gone = weakref.ref(ranker)
    del ranker
    gc.collect()
    assert gone() is None


def test_bubble_finds_the_best_in_both_orders_of_n_less_1_pairs(make_ranker):
    ranker = make_ranker()
    (result,) = ranker.rank([SOURCE], [TEXTS], strategy="bubble")
    assert result.comparisons == 6
    logits = forward(ranker, SOURCE, TEXTS)
    best = 0
    for rival in range(1, 4):
        best = best if logits[best, rival] - logits[rival, best] > 0 else rival
    compared = ~np.isnan(result.pairwise_logits)
    np.testing.assert_allclose(result.pairwise_logits[compared], logits[compared], atol=5e-5)
