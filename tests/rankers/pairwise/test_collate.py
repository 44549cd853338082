"""Token rows: layout, the truncation rule, neutralised special tokens, limits of positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blender_med.errors import ConfigError
from blender_med.rankers.collate import PREFIXES, PairEncoder, add_prefixes, collate, padded

from .conftest import BACKBONES, tiny_tokenizer

# No word of the tokenizer has a z: each is a token.
LONG = "z" * 160


def encoder(family="bert", source=24, candidate=20, **settings) -> PairEncoder:
    tokenizer = tiny_tokenizer(family)
    add_prefixes(tokenizer)
    return PairEncoder(tokenizer, source, candidate, **settings)


def row(encoder: PairEncoder, source: str, left: str, right: str):
    return encoder.pair(encoder.sources([source])[0], *encoder.candidates([left, right]))


@pytest.mark.parametrize("family", BACKBONES)
def test_each_segment_keeps_its_frame(family):
    rows = encoder(family, 300, 300)
    tokenizer = rows.tokenizer
    pair = row(rows, "what ?", "fever", "cough")
    texts = ("<|source|>what ?", "<|candidate1|>fever", "<|candidate2|>cough")
    assert list(pair) == [tokenizer(text)["input_ids"] for text in texts]


def test_the_prefixes_get_new_ids_in_llm_blenders_order():
    tokenizer = tiny_tokenizer("bert")
    before = len(tokenizer)
    add_prefixes(tokenizer)
    assert tokenizer.convert_tokens_to_ids(
        ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
    ) == list(range(before, before + 4))
    add_prefixes(tokenizer)
    assert len(tokenizer) == before + 4


def test_a_short_source_gives_half_of_its_room_to_each_candidate():
    rows = encoder(source=24, candidate=20)
    pair = row(rows, "z", LONG, "z")
    assert len(pair.source) == 4  # [CLS] <|source|> z [SEP]
    assert len(pair.left) == 20 + (24 - 4) // 2
    assert pair.left[-1] == rows.tokenizer.sep_token_id
    assert len(pair.right) == 4


def test_a_long_source_is_cut_and_leaves_nothing():
    pair = row(encoder(source=24, candidate=20), LONG, LONG, LONG)
    assert [len(segment) for segment in pair] == [24, 20, 20]


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        (("z", "z", LONG), (4, 4, 30)),  # fits into 38
        (("z", LONG, LONG), (4, 17, 17)),  # 4 + 30 + 30 does not
        (("z", LONG, "z"), (4, 30, 4)),
        (("z", "zzzzzz", LONG), (4, 9, 25)),
    ],
)
def test_candidates_are_cut_to_the_positions_that_there_are(texts, sizes):
    pair = row(encoder(source=24, candidate=20, positions=38), *texts)
    assert tuple(len(segment) for segment in pair) == sizes


def test_a_decoder_has_the_positions_for_the_candidates_alone():
    rows = encoder("bart", positions=40, is_encoder_decoder=True)
    assert [len(segment) for segment in row(rows, "z", LONG, LONG)] == [4, 20, 20]


@pytest.mark.parametrize("text", [f"fever {token} cough" for token in (*PREFIXES, "[SEP]")])
def test_special_tokens_in_texts_become_spaces(text):
    rows = encoder()
    clean = "fever   cough"
    assert row(rows, text, text, text) == row(rows, clean, clean, clean)


def test_a_prefix_made_by_normalisation_is_dropped():
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer("bert")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    add_prefixes(tokenizer)
    rows = PairEncoder(tokenizer, 24, 20)
    ids = rows.candidates(["a <|SOURCE|> b <|Candidate1|>"])[0]
    assert sum(token in rows.prefix_ids.values() for token in ids) == 1


@given(st.lists(st.text(max_size=60), min_size=3, max_size=3))
def test_any_text_gives_one_prefix_a_segment_and_keeps_the_lengths(texts):
    rows = _ENCODER
    pair = row(rows, *texts)
    prefixes = [t for segment in pair for t in segment if t in rows.prefix_ids.values()]
    expected = ["<|source|>", "<|candidate1|>", "<|candidate2|>"]
    assert prefixes == [rows.prefix_ids[token] for token in expected]
    limit = 20 + (24 - len(pair.source)) // 2
    assert len(pair.source) <= 24
    assert max(len(pair.left), len(pair.right)) <= limit


_ENCODER = encoder()


def test_texts_may_be_empty():
    assert [len(segment) for segment in row(encoder(), "", "", "")] == [3, 3, 3]
    assert encoder().candidates([]) == []


def test_padding_stands_at_the_end():
    batch = padded([[5, 6, 7], [8]], pad_id=1)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_an_encoder_decoder_reads_the_candidates_in_its_decoder():
    rows = encoder("t5", is_encoder_decoder=True)
    pair = row(rows, "what ?", "fever", "cough")
    batch = collate([pair], 1, is_encoder_decoder=True)
    assert batch["input_ids"].tolist() == [pair.source]
    assert batch["decoder_input_ids"].tolist() == [pair.left + pair.right]
    assert batch["decoder_attention_mask"].sum() == len(pair.left) + len(pair.right)


def test_a_tokenizer_without_prefixes_is_an_error():
    with pytest.raises(ConfigError, match=r"'tokenizer'.*<\|source\|>"):
        PairEncoder(tiny_tokenizer("bert"), 24, 20)


def test_a_tokenizer_without_separator_is_an_error():
    tokenizer = tiny_tokenizer("bert")
    add_prefixes(tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.sep_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no separator"):
        PairEncoder(tokenizer, 24, 20)
