"""trl's SFTTrainer with a loss that looks at answers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import SFTTrainer

from blender_med.errors import ConfigError
from blender_med.training.fuser_batches import IGNORED
from blender_med.training.trainer import JobTrainer

# Of SFTConfig: the trainer does not look into the data.
READY_BATCHES: dict[str, Any] = {
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "max_length": None,
}


class AnswerTrainer(JobTrainer, SFTTrainer):
    """Trains a decoder-only model on the tokens of its answers alone."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the job writes a card of its own."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Cross-entropy of the answers' tokens, summed and divided by those of the whole step.

        The output layer runs before tokens of answers only. On prompts it would compute more than
        the rest of a small model does.
        """
        following = inputs["labels"][:, 1:]
        places = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
        rows = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**rows, use_cache=False, logits_to_keep=places)
        processes = self.accelerator.num_processes
        loss = token_mean(outputs.logits, following[:, places], num_items_in_batch, processes)
        return (loss, outputs) if return_outputs else loss


def token_mean(
    logits: torch.Tensor, labels: torch.Tensor, tokens: torch.Tensor | None, processes: int
) -> torch.Tensor:
    """Cross-entropy per token of the answers of a whole step.

    Args:
        logits: [rows, places, vocabulary].
        labels: What they predict, [rows, places]; ``IGNORED`` does not count.
        tokens: Of the answers of all micro-batches of the step and of all processes; None: there
            is this batch alone.
        processes: Over which gradients are averaged, though ``tokens`` counts those of all.
    """
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum() if tokens is None else total / tokens * processes


@contextmanager
def adapters_explained() -> Iterator[None]:
    """A trainer's refusal of adapters as an error that says what to set.

    Raises:
        ConfigError: The adapters do not suit the trainer.
    """
    try:
        yield
    except ValueError as error:
        fix = "name linear layers below the output layer, or all-linear"
        raise ConfigError(str(error), key="lora.target_modules", fix=fix) from error
