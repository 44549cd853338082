"""Tiny random models of the architectures that pipelines/paper.yaml names; a token is a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(10))
ROLES = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
CHAT_TEMPLATE = (
    "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)
_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
# vLLM's attention on a CPU starts at 32 a head.
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64, "initializer_range": 0.4}  # fmt: skip
_BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
         "init_std": 0.4, "decoder_start_token_id": 2}  # fmt: skip
_T5 = {"d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2,
       "feed_forward_proj": "gated-gelu", "initializer_factor": 4.0,
       "decoder_start_token_id": 1}  # fmt: skip
_DEBERTA = {"relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
            "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False, "type_vocab_size": 0}  # fmt: skip

# Class, settings, how its tokenizer frames a text.
_MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mistral": (
        "Mistral",
        {**_SMALL, "num_key_value_heads": 1, "max_position_embeddings": 4096},
        "<s> $A",
    ),
    "llama": (
        "Llama",
        {**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 4096},
        "<s> $A",
    ),
    "deberta-v2": (
        "DebertaV2",
        {**_SMALL, **_DEBERTA, "max_position_embeddings": 512},
        "<s> $A </s>",
    ),
    "roberta": ("Roberta", {**_SMALL, "max_position_embeddings": 130}, "<s> $A </s>"),
    "t5": ("T5", _T5, "$A </s>"),
    "bart": ("Bart", {**_BART, "max_position_embeddings": 128}, "<s> $A </s>"),
}
_HEADS = {
    "T5": "ForConditionalGeneration",
    "Mistral": "ForCausalLM",
    "Llama": "ForCausalLM",
    "Bart": "ForConditionalGeneration",
}


def save_model(family: str, folder: Path, *, seed: int = 0, chat: bool = False) -> Path:
    """Write a model of a family with its tokenizer; ``chat`` gives it a chat template."""
    name, settings, frame = _MODELS[family]
    tokenizer = byte_tokenizer(frame)
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **_IDS, **settings)
    torch.manual_seed(seed)
    model = getattr(transformers, name + _HEADS.get(name, "Model"))(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer(frame: str) -> Any:
    """A tokenizer that reads bytes, framed such as ``<s> $A </s>``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*MARKS, *SENTINELS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [(mark, vocabulary[mark]) for mark in MARKS if mark in frame]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    roles = dict(zip(ROLES, MARKS, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>",
        additional_special_tokens=SENTINELS, **roles,
    )  # fmt: skip


def save_biogpt(folder: Path) -> Path:
    """Write a BioGPT; its own tokenizer knows letters."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?()"
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    transformers.BioGptTokenizer(*files).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BioGptConfig(
        vocab_size=len(tokens), max_position_embeddings=1024, **_IDS, **_SMALL
    )
    transformers.BioGptForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def paper_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each expert, the backbones of rankers and fuser, and the metric models."""
    pytest.importorskip("sacremoses")
    folder = tmp_path_factory.mktemp("models")
    return {
        "biomistral-7b": save_model("mistral", folder / "biomistral"),
        "biogpt-large": save_biogpt(folder / "biogpt"),
        "llama-2-7b-chat": save_model("llama", folder / "llama", chat=True),
        "mistral-7b-instruct": save_model("mistral", folder / "mistral", seed=1, chat=True),
        "deberta": save_model("deberta-v2", folder / "deberta"),
        "t5": save_model("t5", folder / "t5"),
        "roberta": save_model("roberta", folder / "roberta"),
        "bart": save_model("bart", folder / "bart"),
    }
