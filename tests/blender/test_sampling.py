"""n answers to each prompt: from tiny random transformers models, and vLLM's settings."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blender_med import Blender, BlenderConfig
from blender_med.blender.sampling import sampling_settings, vllm_settings
from blender_med.errors import ConfigError
from blender_med.rankers.base import RankedCandidates

PROMPTS = ["what causes fever ?", "fever", "the dose of the liver is good ."]


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture(scope="module")
def decoder(tokenizer) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=48, initializer_range=0.5,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def encoder_decoder(tokenizer) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2,
        decoder_start_token_id=0, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def blender() -> Blender:
    return Blender(BlenderConfig(device="cpu", use_tqdm=False))


@pytest.mark.parametrize("model_name", ["decoder", "encoder_decoder"])
def test_n_answers_to_each_prompt(blender, tokenizer, model_name, request) -> None:
    model = request.getfixturevalue(model_name)
    torch.manual_seed(0)
    answers = blender.n_generate(model, tokenizer, PROMPTS, n=3, batch_size=2, max_new_tokens=8)
    assert [len(own) for own in answers] == [3, 3, 3]
    assert all(isinstance(text, str) for own in answers for text in own)
    assert len({text for own in answers for text in own}) > 1


def test_a_greedy_answer_does_not_depend_on_its_batch_and_leaves_out_the_prompt(
    blender, decoder, tokenizer
) -> None:
    settings = {"n": 1, "sampling_mode": None, "do_sample": False, "max_new_tokens": 6}
    together = blender.n_generate(decoder, tokenizer, PROMPTS, batch_size=3, **settings)
    for prompt, [answer] in zip(PROMPTS, together, strict=True):
        ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            output = decoder.generate(**ids, do_sample=False, max_new_tokens=6, pad_token_id=0)
        new = output[0, ids["input_ids"].shape[1] :]
        assert answer == tokenizer.decode(new, skip_special_tokens=True)


def test_instructions_stand_on_a_line_of_their_own(blender, decoder, tokenizer) -> None:
    settings = {"n": 1, "sampling_mode": None, "do_sample": False, "max_new_tokens": 6}
    joined = blender.n_generate(decoder, tokenizer, ["good\nfever"], **settings)
    apart = blender.n_generate(decoder, tokenizer, ["fever"], ["good"], **settings)
    assert joined == apart


def test_the_models_context_is_the_limit_where_none_is_given(blender, decoder, tokenizer) -> None:
    tokenizer.model_max_length = 10**30
    torch.manual_seed(0)
    [[answer]] = blender.n_generate(decoder, tokenizer, ["fever"], n=1)
    assert len(tokenizer(answer)["input_ids"]) <= 48


def test_a_model_without_a_limit_needs_one(blender, encoder_decoder, tokenizer) -> None:
    tokenizer.model_max_length = 10**30
    with pytest.raises(ConfigError, match="max_new_tokens"):
        blender.n_generate(encoder_decoder, tokenizer, ["fever"])


def test_the_tokenizer_is_left_as_it_was(blender, decoder, tiny_encoder) -> None:
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(tiny_encoder)
    own.pad_token, own.eos_token, own.padding_side = None, "[SEP]", "right"
    blender.n_generate(decoder, own, PROMPTS, n=1, max_new_tokens=2)
    assert own.pad_token is None and own.padding_side == "right"


def test_best_of_n_ranks_what_was_drawn(blender, decoder, tokenizer) -> None:
    class LastWins:
        config = SimpleNamespace(source_maxlength=8, candidate_maxlength=8)

        def rank(self, sources: Any, candidates: Any, **settings: Any) -> Any:
            self.seen = list(sources), [list(group) for group in candidates]
            scores = [tuple(float(i) for i in range(len(group))) for group in candidates]
            return [RankedCandidates(own, tuple(range(len(own), 0, -1))) for own in scores]

    blender._ranker = LastWins()
    torch.manual_seed(0)
    settings = {"n": 4, "max_new_tokens": 6}
    best = blender.best_of_n_generate(decoder, tokenizer, PROMPTS, ["say "] * 3, **settings)
    sources, drawn = blender.ranker.seen
    assert sources == [f"say {prompt}" for prompt in PROMPTS]
    assert best == [group[-1] for group in drawn]
    ordered = blender.best_of_n_generate(decoder, tokenizer, PROMPTS, return_all=True, **settings)
    assert ordered == [group[::-1] for group in blender.ranker.seen[1]]


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("top_p_sampling", {}, {"do_sample": True, "top_p": 1.0, "temperature": 0.7}),
        ("top_p_sampling", {"top_p": 0.9}, {"do_sample": True, "top_p": 0.9, "temperature": 0.7}),
        ("top_k_sampling", {}, {"do_sample": True, "top_k": 50, "temperature": 0.7}),
        (None, {"num_beams": 2}, {"num_beams": 2}),
    ],
)
def test_settings_of_the_sampling_modes(mode, given, expected) -> None:
    before = dict(given)
    assert sampling_settings(mode, given) == expected
    assert given == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sampling_mode": "top_sampling"}, "sampling_mode"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"n": 0}, "'n'"),
    ],
)
def test_wrong_settings_are_an_error(blender, decoder, tokenizer, settings, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        blender.n_generate(decoder, tokenizer, ["fever"], **settings)


def _params(n: int, max_tokens: int, temperature: float, top_p: float, seed: int) -> None: ...


def test_settings_have_other_names_in_vllm() -> None:
    signature = inspect.signature(_params)
    given = {"do_sample": True, "top_p": 0.9, "max_new_tokens": 7}
    assert vllm_settings(given, signature) == {"top_p": 0.9, "max_tokens": 7}
    greedy = {"do_sample": False, "max_length": 9}
    assert vllm_settings(greedy, signature) == {"temperature": 0.0, "max_tokens": 9}
    assert vllm_settings({}, signature) == {"max_tokens": None}
    with pytest.raises(ConfigError, match="repetition_window"):
        vllm_settings({"repetition_window": 3}, signature)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_answers(decoder, tokenizer, tmp_path) -> None:
    """In a process of its own: vLLM keeps threads and patches."""
    decoder.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "sample.py"
    script.write_text(
        "import json, sys\n"
        "from vllm import LLM\n"
        "from blender_med import Blender, BlenderConfig\n"
        "if __name__ == '__main__':\n"
        "    settings = {'max_model_len': 48, 'enforce_eager': True, 'seed': 0}\n"
        "    llm = LLM(sys.argv[1], dtype='float32', **settings)\n"
        "    blender = Blender(BlenderConfig(use_tqdm=False))\n"
        "    prompts = ['fever', 'the dose']\n"
        "    answers = blender.n_generate(llm, None, prompts, n=3, max_new_tokens=4)\n"
        "    print(json.dumps(answers))\n"
    )
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(script), str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [len(own) for own in answers] == [3, 3]
    assert all(isinstance(text, str) for own in answers for text in own)
