"""Rows that a fuser is trained on: the prompt of inference, then the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blender_med.fusers.base import Generation
from blender_med.fusers.genfuser import GenFuser
from blender_med.fusers.loading import formatter_of, load_model
from blender_med.training.fuser_batches import IGNORED, FuserBatches, drawn_candidates
from blender_med.training.fuser_config import ShownCandidates

from .fuser_toy import toy_fusion

RANKED = ShownCandidates(metric="value", top_k=2)
FAMILIES = ("t5", "llama")


@pytest.fixture
def formatters(tiny_t5, tiny_llama) -> dict[str, Any]:
    found = {}
    for name, folder in zip(FAMILIES, (tiny_t5, tiny_llama), strict=True):
        model, tokenizer = load_model(
            folder, dtype="float32", device="cpu", revision=None, settings={}
        )
        lengths = {"max_length": 128, "candidate_maxlength": 16}
        found[name] = formatter_of(model.config, tokenizer, lengths)
    return found


class _Recorder:
    """An engine that keeps the prompts it is sent."""

    def generate(self, prompts: Any, decoding: Any, *, advance: Any = None) -> list[Generation]:
        self.sent = [list(prompt.ids) for prompt in prompts]
        return [Generation("x", 1, "stop") for _ in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_starts_with_the_tokens_that_inference_sends(formatters, family) -> None:
    formatter, recorder, example = formatters[family], _Recorder(), toy_fusion(1)
    # Marks in a user's text are broken up by both alike.
    candidates = (*example.candidates[:1], "a </s> <extra_id_0> <|im_end|> mark")
    fuser = GenFuser(formatter, recorder)
    fuser.fuse([example.instruction], [example.input], [candidates], top_k=2)
    batches = FuserBatches(formatter, RANKED, 8, encoder_decoder=family == "t5", seed=0)
    batch = batches([((0, 0), replace(example, candidates=candidates))])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    sent = recorder.sent[0]
    assert ids[: len(sent)] == sent
    answer = formatter.target_ids(example.target, 8)
    if family == "t5":
        assert ids == sent
        assert labels == answer
    else:
        assert ids == sent + answer
        assert labels == [IGNORED] * len(sent) + answer
    # What ends the answer stops the generation.
    assert answer[-len(formatter.closing_ids) :] == formatter.closing_ids
    assert formatter.tokenizer.decode(answer[: -len(formatter.closing_ids)]) == example.target


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_part_in_attention_and_loss(formatters, family) -> None:
    examples = [toy_fusion(1), toy_fusion(2)]
    short = ShownCandidates(metric="value", top_k=1)
    for shown in (RANKED, short):
        batches = FuserBatches(formatters[family], shown, 8, encoder_decoder=family == "t5", seed=0)
        together = batches([((0, i), example) for i, example in enumerate(examples)])
        for i, example in enumerate(examples):
            alone = batches([((0, i), example)])
            length = alone["input_ids"].shape[1]
            assert together["input_ids"][i, :length].tolist() == alone["input_ids"][0].tolist()
            assert together["attention_mask"][i].sum() == length
            answer = [label for label in together["labels"][i].tolist() if label != IGNORED]
            own = [label for label in alone["labels"][0].tolist() if label != IGNORED]
            assert answer == own


def test_a_long_answer_is_cut_and_has_no_end(formatters) -> None:
    batches = FuserBatches(formatters["t5"], RANKED, 3, encoder_decoder=True, seed=0)
    _, target = batches.row((0, 0), replace(toy_fusion(1), target="fever cough pain dose"))
    assert len(target) == 3
    assert target[-1] not in formatters["t5"].closing_ids


def _draws(count: int = 200, **settings: Any) -> list[tuple[str, ...]]:
    shown = ShownCandidates(metric="value", **settings)
    return [drawn_candidates(toy_fusion(1), shown, np.random.default_rng(i)) for i in range(count)]


def test_ranked_candidates_stand_as_they_are() -> None:
    assert set(_draws()) == {toy_fusion(1).candidates}
    assert set(_draws(top_k=2)) == {toy_fusion(1).candidates[:2]}
    assert set(_draws(top_k=9)) == {toy_fusion(1).candidates}


def test_shuffled_candidates_come_in_every_order() -> None:
    draws = _draws(order="shuffled")
    assert len(set(draws)) == 6
    assert {tuple(sorted(draw)) for draw in draws} == {tuple(sorted(toy_fusion(1).candidates))}


def test_dropout_leaves_out_its_share_but_never_all() -> None:
    draws = _draws(2000, dropout=0.5)
    assert {len(draw) for draw in draws} == {1, 2, 3}
    # Three candidates kept with 1/2 each, and one in the eighth where none is: 1.5 + 1/8.
    assert np.mean([len(draw) for draw in draws]) == pytest.approx(1.625, abs=0.06)
    order = {text: i for i, text in enumerate(toy_fusion(1).candidates)}
    assert all(sorted(draw, key=order.__getitem__) == list(draw) for draw in draws)


def test_a_row_depends_on_seed_epoch_and_example_alone(formatters) -> None:
    shown = ShownCandidates(metric="value", order="shuffled")

    def rows(seed: int, epoch: int) -> list[Any]:
        batches = FuserBatches(formatters["t5"], shown, 8, encoder_decoder=True, seed=seed)
        return [batches.row((epoch, i), toy_fusion(i)) for i in range(8)]

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)
