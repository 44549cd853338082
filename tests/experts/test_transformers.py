"""The transformers engine on tiny random models, inside this process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import ExpertError
from blender_med.experts.config import ExpertConfig, Sampling
from blender_med.experts.requests import ChoiceRequest, EngineSpec, GenerateRequest
from blender_med.experts.transformers import TransformersEngine

PROMPTS = [[0, 40, 50, 60], [0, 41], [0, 42, 52, 62, 72, 82], [0, 43, 53], [0, 44, 54, 64, 74]]
WARM = Sampling(temperature=1.0, max_tokens=12)
GREEDY = Sampling(max_tokens=12)


def tick() -> None:
    return None


def engine(folder: Path, *, loras: tuple[str, ...] = (), **values: Any) -> TransformersEngine:
    base = {"name": "t", "engine": "transformers", "model": str(folder), "dtype": "float32"}
    config = ExpertConfig.model_validate({**base, "batch_size": 2, **values})
    return TransformersEngine(EngineSpec("transformers", config, str(folder), None, loras, False))


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_biogpt"])
def model(request: pytest.FixtureRequest) -> TransformersEngine:
    return engine(request.getfixturevalue(request.param))


def requests(*numbers: int) -> list[GenerateRequest]:
    return [GenerateRequest(PROMPTS[i], seed=100 * i) for i in numbers]


def test_greedy_equals_plain_generate(model: TransformersEngine) -> None:
    import torch

    rows = model.generate(requests(0, 1, 2), GREEDY, 1, tick)
    for prompt, (completion,) in zip(PROMPTS, rows, strict=False):
        ids = model._model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        expected = ids[0, len(prompt) :].tolist()
        text = model._tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.text == text.rstrip("\ufffd")
        assert completion.prompt_tokens == len(prompt)


def test_a_request_may_name_further_tokens_that_end_it(model: TransformersEngine) -> None:
    [[whole]] = model.generate(requests(0), GREEDY, 1, tick)
    import torch

    ids = model._model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=12, do_sample=False)
    stop = ids[0, len(PROMPTS[0]) + 3].item()
    request = GenerateRequest(PROMPTS[0], 0, stop_token_ids=(stop,))
    [[cut]] = model.generate([request], GREEDY, 1, tick)
    assert cut.completion_tokens <= 4 < whole.completion_tokens
    assert cut.finish_reason == "stop"
    assert model.generate(requests(0), GREEDY, 1, tick) == [[whole]]


def test_a_sample_depends_on_its_own_seed_alone(model: TransformersEngine) -> None:
    whole = model.generate(requests(0, 1, 2, 3, 4), WARM, 2, tick)
    assert whole == model.generate(requests(0, 1, 2, 3, 4), WARM, 2, tick)
    alone = model.generate(requests(3), WARM, 2, tick)
    assert [c.text for c in whole[3]] == [c.text for c in alone[0]]
    shifted = [GenerateRequest(PROMPTS[3], seed=301)]
    assert model.generate(shifted, WARM, 1, tick)[0][0].text == whole[3][1].text
    assert whole[3][0].text != whole[3][1].text


def test_samples_follow_the_models_distribution(tiny_llama: Path) -> None:
    import torch

    model = engine(tiny_llama, batch_size=500)
    prompt = torch.tensor([PROMPTS[0]])
    with torch.inference_mode():
        expected = torch.softmax(model._model(prompt).logits[0, -1].float(), dim=-1)
    drawn = [GenerateRequest(PROMPTS[0], seed=i) for i in range(2000)]
    rows = model.generate(drawn, Sampling(temperature=1.0, max_tokens=1), 1, tick)
    first = torch.tensor([float(row[0].logprob_sum or 0) for row in rows])
    # The mean log-probability of a sample is minus the entropy of the distribution.
    entropy = float(-(expected * expected.log()).sum())
    assert float(-first.mean()) == pytest.approx(entropy, abs=0.15)


def test_logprob_sum_is_that_of_the_text(model: TransformersEngine) -> None:
    import torch

    ((completion,),) = model.generate(requests(0), GREEDY, 1, tick)
    ids = model._model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=12, do_sample=False)
    with torch.inference_mode():
        table = torch.log_softmax(model._model(ids).logits[0].float(), dim=-1)
    new = range(len(PROMPTS[0]), ids.shape[1])
    expected = sum(float(table[p - 1, ids[0, p]]) for p in new)
    assert completion.logprob_sum == pytest.approx(expected, abs=1e-3)
    assert completion.completion_tokens == len(new)


def test_stop_texts_end_the_answer(tiny_llama: Path) -> None:
    model = engine(tiny_llama)
    ((whole,),) = model.generate(requests(0), WARM, 1, tick)
    stop = next(c for c in whole.text[3:] if c.isprintable() and c != "\ufffd")
    sampling = WARM.model_copy(update={"stop": (stop,)})
    ((cut,),) = model.generate(requests(0), sampling, 1, tick)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < whole.completion_tokens
    assert whole.finish_reason in ("length", "stop")


CHOICES = [[[45], [46], [47]], [[45, 55], [46], [47, 57, 67]]]


def test_choice_logprobs_equal_one_pass_each(model: TransformersEngine) -> None:
    import torch

    asked = [ChoiceRequest(p, c) for p, c in itertools.product(PROMPTS, CHOICES)]
    rows = model.choice_logprobs(asked, tick)
    for request, row in zip(asked, rows, strict=True):
        for choice, value in zip(request.choices, row, strict=True):
            ids = torch.tensor([request.token_ids + choice])
            with torch.inference_mode():
                table = torch.log_softmax(model._model(ids).logits[0].float(), dim=-1)
            start = len(request.token_ids) - 1
            expected = sum(float(table[start + i, token]) for i, token in enumerate(choice))
            assert value == pytest.approx(expected, abs=1e-4)


def test_adapters_and_base_side_by_side(
    tiny_llama: Path, tmp_path: Path, save_adapter: Any
) -> None:
    loras = tuple(
        str(save_adapter(tiny_llama, tmp_path / n, seed)) for seed, n in enumerate("ab", 1)
    )
    shared = engine(tiny_llama, loras=loras)
    mixed = [GenerateRequest(PROMPTS[i % 5], 0, lora) for i, lora in enumerate([None, *loras] * 2)]
    together = [row[0].text for row in shared.generate(mixed, GREEDY, 1, tick)]
    for lora in (None, *loras):
        alone = engine(tiny_llama, loras=() if lora is None else (lora,))
        own = [r for r in mixed if r.lora == lora]
        expected = [row[0].text for row in alone.generate(own, GREEDY, 1, tick)]
        assert [t for t, r in zip(together, mixed, strict=True) if r.lora == lora] == expected


def test_a_quantisation_it_has_not_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ExpertError, match="no such quantisation"):
        engine(tiny_llama, quantization="int8_per_channel_weight_only")
