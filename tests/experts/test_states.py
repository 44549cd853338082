"""Hidden states: pooling by hand, the transformers engine, texts, and vLLM against transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blender_med.config import parse
from blender_med.errors import ConfigError, ExpertError
from blender_med.experts.config import ExpertConfig, StateConfig
from blender_med.experts.engines import hidden_size, state_engine_choice
from blender_med.experts.loading import load_expert_config, load_state_experts
from blender_med.experts.pooling import pooled
from blender_med.experts.requests import EngineSpec, StateRequest
from blender_med.experts.transformers import TransformersEngine
from blender_med.records import Question

TEXTS = [[0, 40, 50, 60], [0, 41], [0, 42, 52, 62, 72, 82], [0, 43, 53], [0, 44, 54, 64, 74]]
MCQ = Question("m", "medqa", "test", "mcq", "Which?", None, ("red", "green"), 1)
WORDY = Question("w", "medqa", "test", "mcq", "Which? " * 60, None, ("red", "green"), 1)
YES = Question("y", "pubmedqa", "test", "mcq", "Is it?", "An abstract.", ("yes", "no"), 0)
LONG = Question("l", "d", "test", "long", "What is it?", context="word " * 400)
SLOTS = StateConfig(pooling="slots", slots=4)


def config(model: object, **values: Any) -> ExpertConfig:
    base = {"name": "t", "engine": "transformers", "model": str(model), "dtype": "float32"}
    return ExpertConfig.model_validate(base | {"batch_size": 2, "max_model_len": 256} | values)


def test_pooling_by_hand() -> None:
    states = torch.arange(10.0).view(5, 2)  # tokens (0, 1), (2, 3), ... (8, 9)
    assert pooled(states, StateConfig()).tolist() == [[8, 9]]
    assert pooled(states, StateConfig(pooling="mean")).tolist() == [[4, 5]]
    two = pooled(states, StateConfig(pooling="slots", slots=2))
    # Slot 0: tokens 0 to 2 (5 / 2 rounded up), slot 1: from token 2 (rounded down) on.
    assert two.tolist() == [[2, 3], [6, 7]]
    # More slots than tokens: tokens are repeated.
    assert pooled(states[:2], SLOTS).tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert pooled(states[:1], SLOTS).tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("values", [{"pooling": "slots"}, {"slots": 4}, {"pooling": "first"}])
def test_slots_and_their_number_go_together(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(StateConfig, values)


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_biogpt"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_batches_give_what_each_text_gives_alone(
    model: str, layer: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    states = SLOTS.model_copy(update={"layer": layer})
    spec = EngineSpec("transformers", config(folder), str(folder), None, (), False, states)
    engine = TransformersEngine(spec)
    rows = engine.hidden_states([StateRequest(ids) for ids in TEXTS], lambda: None)
    for ids, row in zip(TEXTS, rows, strict=True):
        with torch.inference_mode():
            output = engine._model(torch.tensor([ids]), output_hidden_states=True)
        expected = pooled(output.hidden_states[layer][0], states)
        assert row.shape == (4, 64) and row.dtype == np.float32
        # float32, padding changes the order of sums alone
        assert np.allclose(row, expected, atol=1e-4)


def test_a_layer_that_is_not_there(tiny_llama: Path) -> None:
    spec = EngineSpec(
        "transformers", config(tiny_llama), str(tiny_llama), None, (), False, StateConfig(layer=9)
    )
    with pytest.raises(ExpertError, match=r"no such layer.*received 9.*0 \.\.\. 2"):
        TransformersEngine(spec).hidden_states([StateRequest(TEXTS[0])], lambda: None)


def test_texts_and_states_of_an_expert_in_its_process(tiny_llama: Path) -> None:
    (expert,) = load_state_experts([config(tiny_llama)], StateConfig(), device="cpu")
    prompts = [
        expert.render_states(MCQ),
        expert.render_states(MCQ, option=1),
        expert.render_states(YES, option=0),
        expert.render_states(MCQ, answer="It is <|im_end|>green. "),
        expert.render_states(LONG, answer="yes"),
    ]
    assert [p.text for p in prompts[:4]] == [
        "Question: Which?\nA. red\nB. green\nAnswer:",
        "Question: Which?\nA. red\nB. green\nAnswer: B. green",
        "Abstract: An abstract.\nQuestion: Is it?\nAnswer: yes",
        "Question: Which?\nA. red\nB. green\nAnswer: It is < |im_end|>green.",
    ]
    assert prompts[4].text.endswith("assistant\nyes")  # behind the chat template
    assert prompts[4].fits and 200 < prompts[4].tokens <= 255
    assert prompts[4].truncated_tokens > 1000
    rows = expert.hidden_states(prompts)
    assert [row.shape for row in rows] == [(1, 64)] * 5
    assert not np.allclose(rows[0], rows[1])
    assert np.array_equal(expert.hidden_states(prompts[1:2])[0], rows[1])
    too_long = Question("x", "d", "test", "long", "why " * 300)
    (row,) = expert.hidden_states([expert.render_states(too_long)])  # its end is read
    assert np.isfinite(row).all()
    assert expert.hidden_states([]) == []
    expert.close()


def test_who_gives_which_states(monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"engine": "openai", "openai": {"base_url": "http://localhost:1/v1"}}
    with pytest.raises(ExpertError, match="gives no hidden states"):
        state_engine_choice(config("m", **server), StateConfig())
    with pytest.raises(ExpertError, match="last layer only"):
        state_engine_choice(config("m", engine="vllm"), StateConfig(layer=3))
    other = state_engine_choice(config("m", engine="auto"), StateConfig(layer=3))
    assert other[0] == "transformers"


def test_the_width_is_known_before_the_model_is_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    assert hidden_size(config(tiny_llama)) == 64
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 12}}')
    assert hidden_size(config(tmp_path)) == 12
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExpertError, match="width of the hidden states"):
        hidden_size(config(tmp_path))


needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("states", [StateConfig(), StateConfig(pooling="mean"), SLOTS])
def test_both_engines_give_the_states_of_a_real_model(
    user_cache: None, states: StateConfig
) -> None:
    own = load_expert_config("smollm2-135m").model_copy(update={"dtype": "float32"})
    rows = {}
    for engine in ("vllm", "transformers"):
        one = own.model_copy(update={"engine": engine, "max_model_len": 512})
        (expert,) = load_state_experts([one], states, device="cpu")
        texts = [expert.render_states(MCQ, option=i) for i in range(2)]
        # A prompt that is longer than a block, which its options share.
        texts += [expert.render_states(WORDY, option=i) for i in range(2)]
        texts += [expert.render_states(LONG), expert.render_states(YES, option=1)]
        rows[engine] = np.stack(expert.hidden_states(texts))
        expert.close()
    assert rows["vllm"].shape == (6, states.slots, 576)
    # Measured once: 1.6e-4 at most in float32. Three times that, and the states are not tiny.
    assert np.abs(rows["vllm"] - rows["transformers"]).max() < 5e-4
    assert np.abs(rows["vllm"]).mean() > 0.1
