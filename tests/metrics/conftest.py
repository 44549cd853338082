"""Tiny models of random weights, with tokenizers trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXTS = [
    "Fever is a body temperature above the normal range, often caused by an infection.",
    "Flu is a viral infection of the nose, throat and lungs.",
    "The liver makes bile, which helps the body to digest fat.",
    "Asthma narrows the airways; an inhaler opens them within minutes.",
]
MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of many lengths: empty, one token, ordinary, over the limit of the tiny models."""
    return [*TEXTS, "", "Flu", "\n ", "a b c", " ".join(TEXTS * 3), "émigré naïve ☤", TEXTS[0]]


@pytest.fixture(scope="session")
def save_model(tmp_path_factory) -> Callable[..., Path]:
    """Builds a model of a configuration and saves it with a byte-level tokenizer."""

    def save(model_class: Any, config: Any, tokenizer_class: str = "RobertaTokenizer") -> Path:
        import torch
        import transformers
        from tokenizers import ByteLevelBPETokenizer

        folder: Path = tmp_path_factory.mktemp("model")
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(TEXTS, 300, special_tokens=MARKS, show_progress=False)
        tokenizer.save_model(str(folder))
        loaded = getattr(transformers, tokenizer_class).from_pretrained(folder)
        loaded.model_max_length = 40
        loaded.save_pretrained(folder)
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
        return folder

    return save


TINY = {
    "vocab_size": 300,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TINY_BART = {
    **TINY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "max_position_embeddings": 40, "init_std": 0.4, "decoder_start_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def bart(save_model) -> Path:
    """A BART of 40 positions."""
    from transformers import BartConfig, BartForConditionalGeneration

    return save_model(BartForConditionalGeneration, BartConfig(**TINY_BART), "BartTokenizer")


@pytest.fixture(scope="session")
def roberta(save_model) -> Path:
    """A RoBERTa of three layers and 40 tokens (two positions stand before the first)."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        **TINY, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=42, initializer_range=0.4,
    )  # fmt: skip
    return save_model(RobertaModel, config)
