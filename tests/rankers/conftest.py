"""Tiny random encoders with tokenizers of their own, saved as folders."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertTokenizer, RobertaTokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}

TinyModel = Callable[..., Path]


def _bert_tokenizer() -> Any:
    letters = [*string.ascii_lowercase, *string.digits, *".,?-"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def _roberta_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *sorted(ByteLevel.alphabet())]
    return RobertaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


_TOKENIZERS = {"bert": _bert_tokenizer, "roberta": _roberta_tokenizer}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """``tiny_model("bert", "AutoModel", **fields)``: folder of a random model and its tokenizer."""

    def build(kind: str, auto_class: str = "AutoModel", **fields: Any) -> Path:
        tokenizer = _TOKENIZERS[kind]()
        settings = _SIZES | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        config = transformers.AutoConfig.for_model(kind, **(settings | fields))
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build
