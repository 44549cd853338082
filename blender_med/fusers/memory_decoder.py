"""A T5 decoder that reads fused slots in place of an encoder's states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from blender_med.errors import ConfigError
from blender_med.fusers.base import Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding_config import NewDecoderConfig, Tuning
from blender_med.fusers.generation import decoding_settings
from blender_med.fusers.loading import check_tokenizer
from blender_med.models import load_config, load_pretrained, load_tokenizer

FAMILIES = ("t5", "mt5")
_ADAPTED = ["q", "k", "v", "o"]
_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"


def load_decoder(path: str, revision: str | None = None) -> tuple[Any, Any]:
    """Pretrained decoder without an encoder, and its tokenizer.

    Raises:
        ConfigError: No such model, no T5, or a tokenizer that does not fit.
        DataError: Weights are missing or damaged.
    """
    config = load_config(path, revision)
    if config.model_type not in FAMILIES:
        fix = "name a T5, such as google/flan-t5-small"
        raise ConfigError("the decoder must be a T5", key="head.decoder", value=path, fix=fix)
    config.num_layers = 0  # of the encoder: its part is played by the fused slots
    model = load_pretrained(
        AutoModelForSeq2SeqLM, path, dtype="float32", revision=revision, config=config
    )
    tokenizer = load_tokenizer(path, revision)
    check_tokenizer(model, tokenizer, path)
    return model, tokenizer


def new_decoder(settings: NewDecoderConfig, texts: Iterable[str]) -> tuple[Any, Any]:
    """A T5 decoder with random weights, and a tokenizer learned from ``texts``."""
    tokenizer = _learned_tokenizer(texts, settings.vocabulary)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=settings.width,
        d_kv=settings.width // settings.attention_heads,
        d_ff=4 * settings.width,
        num_layers=0,
        num_decoder_layers=settings.layers,
        num_heads=settings.attention_heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config), tokenizer


def _learned_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: it can write any text, whatever it has learned from."""
    marks = [_PAD, _END, _UNKNOWN]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    roles = {"pad_token": _PAD, "eos_token": _END, "unk_token": _UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def build_decoder(config: PreTrainedConfig, pretrained: Any, tuning: Tuning, lora_rank: int) -> Any:
    """The decoder, of which the part learns that ``tuning`` names.

    Args:
        config: Its configuration.
        pretrained: From :func:`load_decoder`; None makes one with random weights.
        tuning: ``frozen``, ``lora`` or ``full``.
        lora_rank: Rank of the LoRA matrices.
    """
    decoder = pretrained or AutoModelForSeq2SeqLM.from_config(config)
    if tuning == "frozen":
        decoder.requires_grad_(False)
    elif tuning == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        settings = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=_ADAPTED)
        decoder = inject_adapter_in_model(settings, decoder)
    return decoder


def decode(
    decoder: Any, tokenizer: Any, memory: torch.Tensor, decoding: Decoding
) -> list[Generation]:
    """Texts by beam search, [rows].

    Args:
        decoder: From :func:`build_decoder`, in evaluation mode.
        tokenizer: Its tokenizer.
        memory: What it cross-attends to, [rows, slots, d_model].
        decoding: How it writes.

    Raises:
        ConfigError: ``decoding`` samples.
    """
    if decoding.temperature > 0:
        fix = "set temperature to 0"
        problem = "an embedding fuser writes by beam search"
        raise ConfigError(problem, key="temperature", value=decoding.temperature, fix=fix)
    own, beams = decoder.generation_config, decoding.beams(is_encoder_decoder=True)
    pad = tokenizer.pad_token_id
    output = decoder.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=memory),
        attention_mask=memory.new_ones(memory.shape[:2]),
        generation_config=decoding_settings(own, decoding, beams, own.eos_token_id, pad),
    )
    return [_generation(tokenizer, row, own.eos_token_id) for row in output[:, 1:].tolist()]


def _generation(tokenizer: Any, ids: list[int], end: int) -> Generation:
    own = ids[: ids.index(end) + 1] if end in ids else ids
    text = tokenizer.decode(own, skip_special_tokens=True).strip()
    return Generation(text, len(own), "stop" if end in ids else "length")
