"""The loss on answers alone: equal to the model's own over all places."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from blender_med.training.answer_trainer import AnswerTrainer
from blender_med.training.finetune_batches import Row, TuningBatches

ROWS = [Row([5, 6, 7], [8, 9]), Row([4], [3, 2, 6, 5]), Row([9, 8, 7, 6, 5], [4])]
PACKED = 8


def _loss(
    model: Any, inputs: dict[str, torch.Tensor], processes: int = 1, **settings: Any
) -> torch.Tensor:
    accelerator = SimpleNamespace(num_processes=processes)
    trainer = cast(AnswerTrainer, SimpleNamespace(accelerator=accelerator))
    loss: torch.Tensor = AnswerTrainer.compute_loss(trainer, model, inputs, **settings)
    return loss


@pytest.mark.parametrize("packed_length", [None, PACKED])
def test_loss_and_gradients_equal_those_over_all_places(
    packed_length: int | None, tiny_llama: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    inputs = TuningBatches(0, packed_length).batch(ROWS)
    whole = model(**inputs, use_cache=False).loss
    expected = torch.autograd.grad(whole, list(model.parameters()))
    own = _loss(model, inputs)
    assert own.item() == pytest.approx(whole.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(own, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_output_layer_runs_where_answers_are_predicted_only(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    inputs = TuningBatches(0, None).batch([Row([5] * 20, [6, 7])])
    _, outputs = _loss(model, inputs, return_outputs=True)
    assert outputs.logits.shape[1] == 2


def test_a_micro_batch_is_divided_by_the_tokens_of_the_step(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    batches = TuningBatches(0, None)
    answers = sum(len(row.answer) for row in ROWS)
    tokens = torch.tensor(answers)
    parts = [_loss(model, batches.batch([row]), num_items_in_batch=tokens) for row in ROWS]
    assert sum(p.item() for p in parts) == pytest.approx(_loss(model, batches.batch(ROWS)).item())


def test_only_a_loss_over_the_tokens_of_all_processes_grows_with_their_number(
    tiny_llama: Path,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    inputs, tokens = TuningBatches(0, None).batch(ROWS), torch.tensor(20)
    counted = _loss(model, inputs, num_items_in_batch=tokens).item()
    assert _loss(model, inputs, 2, num_items_in_batch=tokens).item() == pytest.approx(2 * counted)
    assert _loss(model, inputs, 2).item() == pytest.approx(_loss(model, inputs).item())
