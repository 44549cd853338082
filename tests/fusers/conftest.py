"""Tiny random models of both families, with tokenizers of one token a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEQ2SEQ_TOKENS = ("<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(20)))
CHAT_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(special: tuple[str, ...], **roles: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    others = [token for token in special if token not in roles.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=others, **roles
    )


@pytest.fixture(scope="session")
def seq2seq_tokenizer() -> Any:
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return byte_tokenizer(SEQ2SEQ_TOKENS, **roles)


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer(CHAT_TOKENS, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


TINY_T5 = {
    "vocab_size": 280,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_factor": 4.0,
}


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory, seq2seq_tokenizer: Any) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**TINY_T5))
    return _saved(model, seq2seq_tokenizer, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_mt5(tmp_path_factory: pytest.TempPathFactory, seq2seq_tokenizer: Any) -> Path:
    from transformers import MT5Config, MT5ForConditionalGeneration

    torch.manual_seed(0)
    model = MT5ForConditionalGeneration(MT5Config(**TINY_T5))
    return _saved(model, seq2seq_tokenizer, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory, seq2seq_tokenizer: Any) -> Path:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=280,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=1,
        init_std=0.4,
    )
    return _saved(BartForConditionalGeneration(config), seq2seq_tokenizer, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,  # vLLM computes no heads below 32 on a CPU
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1200,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,
    )
    return _saved(LlamaForCausalLM(config), chat_tokenizer, tmp_path_factory)


def _saved(model: Any, tokenizer: Any, factory: pytest.TempPathFactory) -> Path:
    folder = factory.mktemp("fuser")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
