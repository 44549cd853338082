"""Load the model of a text fuser, of either family, and check that its parts fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blender_med.errors import ConfigError
from blender_med.fusers.prompts import ChatLayout, PromptFormatter, Seq2SeqLayout
from blender_med.models import (
    check_vocabulary,
    load_config,
    load_pretrained,
    load_tokenizer,
    torch_device,
)

CONFIG_KEY = "genfuser"  # of the model's own config.json: the lengths of its prompts


def load_model(
    path: str | Path, *, dtype: str, device: str | None, revision: str | None, settings: Any
) -> tuple[Any, Any]:
    """Model in evaluation mode on ``device``, and its tokenizer.

    Args:
        path: Hub id, local folder or package source.
        dtype: Name of the weights' torch type.
        device: None takes CUDA where there is one.
        revision: Of a Hub id.
        settings: Passed to the model's ``from_pretrained``, such as ``quantization_config``;
            with ``device_map`` the model stays where that puts it.

    Raises:
        ConfigError: No such model, neither an encoder-decoder nor decoder-only, or a tokenizer
            that does not fit.
        DataError: Weights are missing or damaged, or there is no tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from blender_med.fusers.shared_keys import ATTENTION, FAMILIES

    config = load_config(path, revision)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in auto_class._model_mapping:
        fix = "name an encoder-decoder (T5, BART) or a decoder-only model"
        raise ConfigError("this model writes no text", key="model", value=str(path), fix=fix)
    if config.model_type in FAMILIES:
        settings = {"attn_implementation": ATTENTION} | settings
    place = {} if "device_map" in settings else {"device": torch_device(device)}
    model = load_pretrained(auto_class, path, dtype=dtype, revision=revision, **settings)
    tokenizer = load_tokenizer(path, revision)
    check_tokenizer(model, tokenizer, path)
    return (model.to(**place) if place else model), tokenizer


def check_tokenizer(model: Any, tokenizer: Any, path: str | Path) -> None:
    """Check that the model can read what the tokenizer writes.

    Raises:
        ConfigError: As :func:`check_tokenizer_of`; or the tokenizer has more tokens than the
            model, or the model does not say how its decoder starts.
    """
    check_tokenizer_of(model.config, tokenizer, path)
    check_vocabulary(model, tokenizer, path)
    if model.config.is_encoder_decoder and model.generation_config.decoder_start_token_id is None:
        fix = "set decoder_start_token_id in its generation_config.json (0 for T5, 2 for BART)"
        problem = "the model does not say how its decoder starts"
        raise ConfigError(problem, key="decoder_start_token_id", value=None, fix=fix)


def check_tokenizer_of(config: Any, tokenizer: Any, path: str | Path) -> None:
    """The part of :func:`check_tokenizer` that needs no weights.

    Raises:
        ConfigError: The tokenizer has no words or no end token, or ends a text with another token
            than an encoder-decoder.
    """
    vocabulary = tokenizer.get_vocab()
    # Without files transformers makes a T5 tokenizer that knows the blank and nothing else.
    if len(vocabulary) <= len(tokenizer.all_special_tokens) + 1:
        raise _mismatch("the tokenizer has no words", path)
    end = tokenizer.eos_token_id
    if end is None:
        raise _mismatch("the tokenizer has no end-of-sequence token", path)
    own = config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    if config.is_encoder_decoder and end not in ends:
        raise _mismatch(f"the tokenizer ends a text with token {end}, the model with {own}", path)


def _mismatch(problem: str, path: str | Path) -> ConfigError:
    fix = "save the tokenizer that the model was trained with beside its weights"
    return ConfigError(problem, key="tokenizer", value=str(path), fix=fix)


def formatter_of(config: Any, tokenizer: Any, lengths: Mapping[str, int | None]) -> PromptFormatter:
    """The prompt that a model was trained on.

    Args:
        config: Of the model; it may hold the lengths that it was trained with.
        tokenizer: Its tokenizer.
        lengths: ``max_length`` and ``candidate_maxlength``; None takes the model's own, and
            where it has none those of LLM-Blender, 1024 and 128.

    Raises:
        ConfigError: ``max_length`` exceeds the positions of the model.
    """
    own = dict(getattr(config, CONFIG_KEY, None) or {})
    chosen = own | {name: value for name, value in lengths.items() if value is not None}
    encoder_decoder = config.is_encoder_decoder
    layout = Seq2SeqLayout(tokenizer.eos_token) if encoder_decoder else ChatLayout(tokenizer)
    formatter = PromptFormatter(tokenizer, layout, **chosen)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and formatter.max_length > positions:
        problem = f"the model has {positions} positions"
        fix = f"set max_length to at most {positions}"
        raise ConfigError(problem, key="max_length", value=formatter.max_length, fix=fix)
    return formatter
