"""Arguments of llm-blender's ``fuse`` in the terms of :class:`GenFuser`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blender_med.blender.arguments import Rows
from blender_med.config import parse
from blender_med.errors import ConfigError
from blender_med.fusers.config import Decoding
from blender_med.fusers.genfuser import GenFuser
from blender_med.fusers.prompts import PromptFormatter

_SAMPLING_ONLY = ("temperature", "top_p", "top_k")
_TOP_K_OF_GENERATE = 50  # what ``generate`` samples from unless told otherwise


def best_candidates(
    candidates: Sequence[Sequence[str]], order: Rows, top_k: int, *, is_score: bool
) -> list[list[str]]:
    """The best candidates of each question, the best first; ties keep their order.

    Args:
        candidates: [n][k].
        order: Ranks, lower is better, or scores, higher is better, [n][k].
        top_k: How many; all where there are fewer.
        is_score: Whether ``order`` holds scores.

    Raises:
        ConfigError: ``top_k`` is below 1.
    """
    if top_k < 1:
        raise ConfigError("no candidate to fuse", key="top_k", value=top_k, fix="give at least 1")
    sign = -1 if is_score else 1
    return [
        [group[i] for i in np.argsort(sign * np.asarray(row), kind="stable")[:top_k]]
        for group, row in zip(candidates, order, strict=True)
    ]


def decoding_of(generate_kwargs: Mapping[str, Any], default_tokens: int) -> Decoding:
    """Arguments of ``generate`` as a decoding.

    ``do_sample=True`` samples at temperature 1.0 from the 50 likeliest tokens unless told
    otherwise, as ``generate`` does.

    Args:
        generate_kwargs: As passed to ``Blender.fuse``.
        default_tokens: ``max_new_tokens`` where they name none.

    Raises:
        ConfigError: An argument is unknown, or one of sampling stands without ``do_sample``.
    """
    given = {"max_new_tokens": default_tokens, **generate_kwargs}
    if given.pop("num_return_sequences", 1) != 1:
        fix = "leave it out; with do_sample=True call again with another seed"
        raise ConfigError("one answer is written for each input", key="num_return_sequences",
                          value=generate_kwargs["num_return_sequences"], fix=fix)  # fmt: skip
    if given.pop("do_sample", False):
        given = {"temperature": 1.0, "top_k": _TOP_K_OF_GENERATE, **given}
        given["sample_top_k"] = given.pop("top_k")
        return parse(Decoding, given)
    for name in _SAMPLING_ONLY:
        if name in given:
            fix = "pass do_sample=True, or leave it out"
            raise ConfigError("this does nothing without sampling", key=name, value=given[name],
                              fix=fix)  # fmt: skip
    return parse(Decoding, {"num_beams": 4, **given})


def for_one_call(fuser: Any, candidate_maxlength: int | None, batch_size: int) -> GenFuser:
    """The same model with other limits.

    Args:
        fuser: As it was loaded.
        candidate_maxlength: Most tokens of a candidate; None: the fuser's own.
        batch_size: Prompts of full length in a batch.

    Raises:
        ConfigError: ``candidate_maxlength`` is below 1.
    """
    own = fuser.formatter
    if candidate_maxlength is not None and candidate_maxlength < 1:
        fix = "give at least 1"
        raise ConfigError("no room for a candidate", key="candidate_max_length",
                          value=candidate_maxlength, fix=fix)  # fmt: skip
    length = candidate_maxlength or own.candidate_maxlength
    formatter = PromptFormatter(own.tokenizer, own.layout, own.max_length, length)
    return GenFuser(formatter, fuser.engine.limited(formatter, batch_size * own.max_length))


def quantization(load_in_4bit: bool, load_in_8bit: bool) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for bitsandbytes; none where neither is asked for.

    Raises:
        ConfigError: Both are.
    """
    if load_in_4bit and load_in_8bit:
        fix = "choose one"
        raise ConfigError("4 and 8 bits at once", key="load_in_4bit", value=True, fix=fix)
    if not (load_in_4bit or load_in_8bit):
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    return {"quantization_config": config, "device_map": "auto"}
