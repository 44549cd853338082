"""A decoder-only fuser on vLLM: the same prompts as in transformers, and the same texts."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import GenerationConfig

from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.experts import engines
from blender_med.fusers.applied import AppliedGenFuser
from blender_med.fusers.base import Generation
from blender_med.fusers.genfuser import GenFuser
from blender_med.stages.fusing import served

QUESTION = (["Answer it."], ["What is gout?"], [["Gout is arthritis.", "A pain " * 30, "No."]])
LENGTHS = {"max_length": 512, "candidate_maxlength": 40}


OTHER_END = 3  # <|im_end|>, which the model's own configuration does not name


def _recipe(**changes: Any) -> AppliedGenFuser:
    tree = {"model": "given", "engine": "vllm", "decoding": {"max_new_tokens": 16}}
    return AppliedGenFuser.model_validate(tree | changes)


class _Listening:
    """In the place of an engine: keeps the prompts."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    def generate(self, prompts: Any, decoding: Any, *, advance: Any = None) -> list[Generation]:
        self.prompts += prompts
        return [Generation("text", 1, "stop") for _ in prompts]


@pytest.fixture
def asked(monkeypatch) -> dict[str, Any]:
    """What the engine is started with, and the prompts that it gets."""
    seen: dict[str, Any] = {"engine": _Listening()}

    @contextmanager
    def expert(config: Any, **_: Any) -> Any:
        seen["config"] = config
        yield config

    monkeypatch.setattr(served, "asked_expert", expert)

    def engine(_: Any, stops: Any) -> _Listening:
        seen["stops"] = list(stops)
        return seen["engine"]

    monkeypatch.setattr(served, "ExpertEngine", engine)
    return seen


def test_the_engine_gets_the_prompts_that_the_model_was_trained_on(
    asked, tiny_llama, tmp_path
) -> None:
    GenFuser.from_pretrained(tiny_llama, **LENGTHS).save_pretrained(tmp_path)
    with served.served_genfuser(_recipe(), tmp_path, cache=False) as fuser:
        assert fuser.fuse(*QUESTION) == ["text"]
    [prompt] = asked["engine"].prompts
    expected = GenFuser.from_pretrained(tmp_path).formatter
    assert expected.max_length == 512 and expected.candidate_maxlength == 40
    assert prompt == expected.encode(QUESTION[0][0], QUESTION[1][0], QUESTION[2][0])
    config = asked["config"]
    assert (config.engine, config.model, config.dtype) == ("vllm", str(tmp_path), "float32")
    assert config.max_model_len == 512 + 16
    assert asked["stops"] == [OTHER_END]


def test_a_saved_fuser_names_every_token_that_ends_its_texts(tiny_llama, tmp_path) -> None:
    fuser = GenFuser.from_pretrained(tiny_llama)
    end_of_turn = fuser.formatter.tokenizer.convert_tokens_to_ids("<|im_end|>")
    fuser.save_pretrained(tmp_path)
    ends = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert ends == sorted({fuser.formatter.tokenizer.eos_token_id, end_of_turn})


def test_what_vllm_cannot_serve_is_refused(asked, tiny_t5, tiny_llama) -> None:
    cases = [
        (tiny_t5, {}, "vLLM serves no encoder-decoder.*engine: transformers"),
        (tiny_llama, {"max_length": 1190}, "prompt and text are 1206 tokens.*1200 positions"),
    ]
    for source, changes, message in cases:
        with (
            pytest.raises(ConfigError, match=message),
            served.served_genfuser(_recipe(**changes), source, cache=False),
        ):
            pass
    assert "config" not in asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding": {"num_beams": 4}}, "decoding.num_beams"),
        ({"decoding": {"length_penalty": 0.5}}, "decoding.length_penalty"),
        ({"device": "cpu"}, "are for 'engine: transformers'"),
        ({"batch_tokens": 64}, "are for 'engine: transformers'"),
        ({"model": None, "expert": "good"}, "the recipe of the 'expert' names its engine"),
    ],
)
def test_settings_of_the_other_engine_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        _recipe(**changes)


def test_a_family_that_vllm_does_not_serve_is_refused_before_anything_runs(
    tiny_t5, tiny_llama, monkeypatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    served.check_served(str(tiny_llama), "fuse.fusers.0")
    served.check_served("expert:smollm2-135m", "fuse.fusers.0")
    with pytest.raises(ConfigError, match=r"'fuse\.fusers\.0\.engine'.*no encoder-decoder"):
        served.check_served(str(tiny_t5), "fuse.fusers.0")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="vllm"):
        served.check_served(str(tiny_llama), "fuse.fusers.0")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_writes_what_transformers_writes(tiny_llama) -> None:
    """The end of the turn included, which this model's own configuration does not name."""
    loaded = GenFuser.from_pretrained(tiny_llama, **LENGTHS)
    questions = [
        ["Answer it."] * 40,
        [f"What is it, {'x' * i}?" for i in range(40)],
        [["Gout is arthritis." * (i % 3), "No."] for i in range(40)],
    ]
    with served.served_genfuser(_recipe(**LENGTHS), tiny_llama, cache=False) as fuser:
        texts = fuser.fusions(*questions, top_k=3, decoding=_recipe().decoding)
    plain = loaded.fusions(*questions, top_k=3, decoding=_recipe().decoding)
    assert [f.prompt_tokens for f in texts] == [f.prompt_tokens for f in plain]
    # This model writes bytes at random: vLLM leaves out what follows half a character at the end.
    for found, expected in zip(texts, plain, strict=True):
        assert expected.text.startswith(found.text.rstrip("\ufffd"))
        assert len(expected.text) - len(found.text) <= 3
        assert found.finish_reason == expected.finish_reason
        assert found.completion_tokens == expected.completion_tokens
    assert len({f.text for f in texts}) > 30
    assert "stop" in {f.finish_reason for f in texts}
