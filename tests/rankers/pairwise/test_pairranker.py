"""The model: layout of the head, encoders of every family, saving, loading, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blender_med.data.pairs import RankingExample
from blender_med.errors import ConfigError
from blender_med.rankers.collate import collate
from blender_med.rankers.pairranker import PairRanker

from .conftest import BACKBONES

SOURCE = "what treats fever ?"
TEXTS = ("the liver .", "a dose of the heart is a risk .", "cough", "kidney pain causes fever")


def logit(ranker: PairRanker, left: str, right: str) -> float:
    """One pair by itself, through the model's forward."""
    encoder = ranker.encoder
    ids = encoder.candidates([left, right])
    pair = encoder.pair(encoder.sources([SOURCE])[0], *ids)
    pad = ranker.tokenizer.pad_token_id
    batch = collate([pair], pad, is_encoder_decoder=ranker.is_encoder_decoder)
    with torch.inference_mode():
        return ranker(**batch).logits.item()


def example(labels=((0.9,), (0.1,), (0.5,), (0.3,))) -> RankingExample:
    return RankingExample("q1", SOURCE, TEXTS[: len(labels)], np.array(labels))


@pytest.mark.parametrize("family", BACKBONES)
def test_every_family_saves_loads_and_ranks_alike(family, make_ranker, tmp_path):
    ranker = make_ranker(family)
    ranker.save_pretrained(tmp_path / "ranker")
    loaded = PairRanker.from_pretrained(tmp_path / "ranker")
    expected = logit(ranker, *TEXTS[:2])
    assert abs(expected) > 1e-2
    # The weights are equal; memory alignment makes kernels differ in the last bits.
    assert logit(loaded, *TEXTS[:2]) == pytest.approx(expected, rel=1e-5)
    assert sorted(p.suffix for p in (tmp_path / "ranker").glob("model*")) == [".safetensors"]


@pytest.mark.parametrize("family", BACKBONES)
def test_every_family_learns(family, make_ranker):
    ranker = make_ranker(family, drop_out=0.0).train()
    rng = np.random.default_rng(0)
    batch = ranker.training_batch([example(), example()], rng)
    assert batch["labels"].shape == (10, 2, 1)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = ranker(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_logit_is_the_mean_over_tasks_of_left_minus_right(make_ranker):
    ranker = make_ranker(n_tasks=3)
    batch = ranker.training_batch([example([[0.1] * 3, [0.4] * 3])], np.random.default_rng(0))
    with torch.inference_mode():
        output = ranker(**batch)
    assert output.left.shape == (1, 3)
    expected = (output.left - output.right).mean(dim=-1)
    torch.testing.assert_close(output.logits, expected)


def test_the_head_reads_the_states_of_the_prefixes(make_ranker):
    ranker = make_ranker()
    batch = ranker.training_batch([example()], np.random.default_rng(0))
    ids = batch["input_ids"]
    with torch.inference_mode():
        states = ranker.pretrained_model(ids, batch["attention_mask"]).last_hidden_state
        output = ranker(**batch)
    vocabulary = ranker.tokenizer.get_vocab()
    row = 0
    source, first, second = (
        states[row, ids[row].tolist().index(vocabulary[token])]
        for token in ("<|source|>", "<|candidate1|>", "<|candidate2|>")
    )
    hidden = [torch.cat([source, c]) @ ranker.head_layer[1].weight.T for c in (first, second)]
    scores = [
        torch.tanh(h + ranker.head_layer[1].bias) @ ranker.head_layer[4].weight.T
        + ranker.head_layer[4].bias
        for h in hidden
    ]
    torch.testing.assert_close(output.left[row], scores[0])
    torch.testing.assert_close(output.right[row], scores[1])


def test_labels_follow_their_candidates(make_ranker):
    ranker = make_ranker()
    batch = ranker.training_batch([example()], np.random.default_rng(0))
    values = [label for (label,) in example().labels]
    ids = [tuple(row[1:]) for row in ranker.encoder.candidates(TEXTS)]
    value = dict(zip(ids, values, strict=True))
    end = ranker.tokenizer.sep_token_id
    for row, labels in zip(batch["input_ids"].tolist(), batch["labels"][..., 0], strict=True):
        for token, label in zip(("<|candidate1|>", "<|candidate2|>"), labels, strict=True):
            start = row.index(ranker.encoder.prefix_ids[token]) + 1
            found = tuple(row[start : row.index(end, start)])
            assert value[found] == pytest.approx(label.item())


def test_swap_consistency_adds_every_pair_in_the_other_order(make_ranker):
    plain, both = make_ranker(drop_out=0.0), make_ranker(drop_out=0.0, swap_consistency=0.5)
    batch = both.training_batch([example()], np.random.default_rng(0))
    half = len(batch["labels"]) // 2
    torch.testing.assert_close(batch["labels"][:half], batch["labels"][half:].flip(1))
    with torch.inference_mode():
        logits = both(**batch).logits
        extra = (both(**batch).loss - plain(**batch).loss).item()
    expected = 0.5 * (logits[:half] + logits[half:]).square().mean().item()
    assert expected > 1e-6
    assert extra == pytest.approx(expected, rel=1e-4)


def test_the_same_rng_draws_the_same_batch(make_ranker):
    ranker = make_ranker()
    first, again, other = (
        ranker.training_batch([example()], np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(
        first[name].shape != other[name].shape or not torch.equal(first[name], other[name])
        for name in first
    )


def test_gradient_checkpointing_changes_no_gradient(make_ranker):
    gradients = []
    for enable in (False, True):
        ranker = make_ranker(drop_out=0.0)
        if enable:
            ranker.gradient_checkpointing_enable()
            ranker.train()
            for module in ranker.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        batch = ranker.training_batch([example()], np.random.default_rng(0))
        ranker(**batch).loss.backward()
        gradients.append(ranker.pretrained_model.encoder.layer[0].output.dense.weight.grad)
    torch.testing.assert_close(*gradients)


def test_lengths_default_to_pairrm_where_the_backbone_has_the_positions(backbone):
    relative = PairRanker.from_backbone(backbone("deberta-v2"))
    assert (relative.config.source_maxlength, relative.config.candidate_maxlength) == (1224, 412)


def test_a_source_longer_than_half_of_the_positions_is_refused(backbone):
    with pytest.raises(ConfigError, match=r"'source_maxlength'.*\(received 90\).*at most 80"):
        PairRanker.from_backbone(backbone("bert"), source_maxlength=90)


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("loss_type", "instructgtp", "did you mean 'instructgpt'"),
        ("sub_sampling_mode", "all", "choose one of"),
        ("num_pos", 0, "at least 1"),
        ("sub_sampling_ratio", 1.5, "at most 1"),
    ],
)
def test_wrong_fields_are_named(backbone, field, value, fix):
    with pytest.raises(ConfigError, match=f"'{field}'.*{fix}"):
        PairRanker.from_backbone(backbone("bert"), **{field: value})


def test_a_ranker_without_tokenizer_says_so(make_ranker):
    ranker = PairRanker(make_ranker().config)
    with pytest.raises(ConfigError, match="no tokenizer"):
        _ = ranker.encoder


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "t5", "bart"])
def test_backbone_dropout_replaces_every_dropout_of_the_backbone(backbone, family):
    ranker = PairRanker.from_backbone(
        backbone(family), backbone_dropout=0.0, source_maxlength=32, candidate_maxlength=32
    )
    backbone_layers = ranker.pretrained_model.modules()
    rates = [layer.p for layer in backbone_layers if isinstance(layer, torch.nn.Dropout)]
    assert set(rates) <= {0.0}
    assert ranker.head_layer[0].p == ranker.config.drop_out == 0.05
