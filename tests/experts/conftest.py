"""Tiny random models in the Hugging Face format, and a recipe for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

USER_CACHE = os.environ.get("BLENDER_MED_CACHE")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def user_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real models are converted once for the machine, not once a test."""
    if USER_CACHE is None:
        monkeypatch.delenv("BLENDER_MED_CACHE")
    else:
        monkeypatch.setenv("BLENDER_MED_CACHE", USER_CACHE)


def byte_tokenizer(chat: bool) -> Any:
    """One token a byte, BOS first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=special[2:],
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def save_tiny_llama(folder: Path, *, seed: int = 0, chat: bool = True) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer(chat).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def tiny_biogpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sacremoses")
    import torch
    from transformers import BioGptConfig, BioGptForCausalLM, BioGptTokenizer

    folder = tmp_path_factory.mktemp("models") / "biogpt"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?"
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n")
    tokenizer = BioGptTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BioGptConfig(
        vocab_size=len(tokens),
        hidden_size=64,  # vLLM's CPU attention starts at 32 a head
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    BioGptForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_adapter() -> Any:
    """Writes a LoRA adapter of a base model that changes its output visibly."""

    def save(base: Path, folder: Path, seed: int) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(folder)
        return folder

    return save
