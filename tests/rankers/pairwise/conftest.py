"""Tiny random backbones of every supported family, and rankers on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from blender_med.rankers.pairranker import PairRanker

WORDS = "fever cough pain dose liver heart kidney risk a the of is what treats causes ? ."

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
}
_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}
_BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 160,
    "init_std": 0.2,
}
_DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
# ModernBERT alternates layers that see everything with layers that see a window.
_MODERNBERT = {"local_attention": 16, "global_attn_every_n_layers": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    "bert": _SMALL,
    "roberta": _SMALL,
    "mpnet": _SMALL,
    "deberta-v2": _SMALL | _DEBERTA,
    "modernbert": _SMALL | _MODERNBERT,
    "t5": _T5,
    "bart": _BART,
}
ENCODERS = [name for name in BACKBONES if name not in ("t5", "bart")]
_ROBERTA_MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_BERT_MARKS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that frames texts as the family's own does."""
    angled = family in ("roberta", "mpnet", "t5", "bart")
    start, pad, end, unknown, mask = _ROBERTA_MARKS if angled else _BERT_MARKS
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[start, pad, end, unknown, mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    opening = "" if family == "t5" else f"{start} "
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening}$A {end}", special_tokens=[(start, 0), (end, 2)]
    )
    marks = {"cls_token": start, "sep_token": end} if family != "t5" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, mask_token=mask,
        eos_token=end, **marks,
    )  # fmt: skip


def write_backbone(family: str, folder: Path, **variant: Any) -> Path:
    """Save a tiny random backbone with its tokenizer; ``variant`` changes its configuration."""
    tokenizer = tiny_tokenizer(family)
    settings = BACKBONES[family] | variant | {"vocab_size": len(tokenizer), "pad_token_id": 1}
    if family in ("t5", "bart"):
        settings |= {"decoder_start_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Callable[[str], Path]:
    """Folder of a tiny backbone of a family."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = write_backbone(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def make_ranker(backbone) -> Callable[..., PairRanker]:
    """A new random ranker on a family's tiny backbone, in evaluation mode."""

    def make(family: str = "bert", **settings: Any) -> PairRanker:
        lengths = {"source_maxlength": 24, "candidate_maxlength": 20}
        folder = backbone(family)  # draws its own weights the first time, so before the seed
        torch.manual_seed(1)
        ranker = PairRanker.from_backbone(folder, **(lengths | settings)).eval()
        torch.nn.init.normal_(ranker.head_layer[1].weight, std=0.3)
        torch.nn.init.normal_(ranker.head_layer[4].weight, std=1.0)
        return ranker

    return make
