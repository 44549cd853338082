"""A decoder-only fuser that vLLM serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.engines import engine_choice
from blender_med.fusers.applied import AppliedGenFuser
from blender_med.fusers.genfuser import GenFuser
from blender_med.fusers.loading import check_tokenizer_of, formatter_of
from blender_med.models import load_config, load_tokenizer, local_folder, read_config
from blender_med.stages.fusing.experts import ExpertEngine, asked_expert

_NAME = "fuser"  # of the engine, in messages


@contextmanager
def served_genfuser(
    fuser: AppliedGenFuser, source: str | Path, *, cache: bool, verbose: bool = False
) -> Iterator[GenFuser]:
    """The fuser, with the prompts of :meth:`GenFuser.from_pretrained`; its engine stops at the end.

    Args:
        fuser: With ``engine: vllm``.
        source: Folder, Hub id or package source of its weights.
        cache: Whether texts are kept in, and taken from, the generation cache.
        verbose: Let the engine's own log through.

    Raises:
        ConfigError: No such model, an encoder-decoder, a tokenizer that does not fit, or prompts
            and texts longer than the model's positions.
        MissingDependencyError: vLLM is not installed.
    """
    config = load_config(source, fuser.revision)
    if config.is_encoder_decoder:
        raise _encoder_decoder()
    tokenizer = load_tokenizer(source, fuser.revision)
    check_tokenizer_of(config, tokenizer, source)
    lengths = {"max_length": fuser.max_length, "candidate_maxlength": fuser.candidate_maxlength}
    formatter = formatter_of(config, tokenizer, lengths)
    expert = served_expert(fuser, source, config, formatter.max_length)
    with asked_expert(expert, cache=cache, verbose=verbose) as asked:
        yield GenFuser(formatter, ExpertEngine(asked, formatter.closing_ids[:1]))


def check_served(source: str, key: str) -> None:
    """Check what can be seen before anything runs: that vLLM is here, and of which family it is.

    Args:
        source: Folder, Hub id, package source or ``expert:NAME`` of the weights, or of those that
            they are trained from. Of a model on the Hub the family is known later.
        key: Of the fuser in its recipe, for messages.

    Raises:
        ConfigError: It is an encoder-decoder.
        MissingDependencyError: vLLM is not installed.
    """
    engine_choice(ExpertConfig(name=_NAME, engine="vllm", model=source))
    folder = None if source.startswith("expert:") else local_folder(source)
    if folder is not None and read_config(folder).get("is_encoder_decoder"):
        raise _encoder_decoder().under(key)


def _encoder_decoder() -> ConfigError:
    fix = "set engine: transformers"
    return ConfigError("vLLM serves no encoder-decoder", key="engine", value="vllm", fix=fix)


def served_expert(
    fuser: AppliedGenFuser, source: str | Path, config: Any, max_length: int
) -> ExpertConfig:
    """The fuser as the engines of experts see it.

    Args:
        fuser: Its recipe.
        source: Folder, Hub id or package source of its weights.
        config: Of its model.
        max_length: Most tokens of its prompts.

    Raises:
        ConfigError: A prompt and a text together are longer than the model's positions.
    """
    longest = max_length + fuser.decoding.max_new_tokens
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        problem = f"prompt and text are {longest} tokens, the model has {positions} positions"
        fix = "lower max_length or decoding.max_new_tokens"
        raise ConfigError(problem, key="max_length", value=max_length, fix=fix)
    return ExpertConfig(
        name=_NAME,
        engine="vllm",
        model=str(local_folder(source) or source),
        revision=fuser.revision,
        dtype=fuser.dtype,
        max_model_len=longest,
        allow_pickle=fuser.allow_pickle,
    )
