"""The trainer of an expert: trl's SFTTrainer on rows that are made beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from blender_med.batching import token_budget_batches
from blender_med.errors import ExpertError
from blender_med.training.answer_trainer import (
    READY_BATCHES,
    AnswerTrainer,
    adapters_explained,
)
from blender_med.training.batches import ExampleDataset
from blender_med.training.config import Precision
from blender_med.training.expert_config import FinetuneJob
from blender_med.training.finetune_batches import Row, TuningBatches
from blender_med.training.fuser_batches import IGNORED
from blender_med.training.processes import gathered, share
from blender_med.training.trainer import training_arguments

LOGPROB = "eval_answer_logprob"

_DEV_TOKENS = 2048  # of a forward pass on dev


class FinetuneTrainer(AnswerTrainer):
    """Tunes a causal language model on the tokens of its answers alone.

    Args:
        model: The model to train.
        tokenizer: Its tokenizer.
        job: The recipe.
        precision: What the setting came to on this machine.
        arguments: From ``training_arguments``.
        train: Rows to learn from, at least one.
        dev: Rows to measure on, at least one.
        callbacks: What happens beside.
    """

    length_of = attrgetter("length")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        job: FinetuneJob,
        precision: Precision,
        arguments: Any,
        train: Sequence[Row],
        dev: Sequence[Row],
        callbacks: list[TrainerCallback],
    ) -> None:
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        pad_id = end if pad is None else pad
        super().__init__(
            model,
            arguments,
            data_collator=TuningBatches(pad_id, job.max_length if job.packing else None),
            train_dataset=_numbered(train),
            eval_dataset=_numbered(dev),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self._job, self._precision, self._dev = job, precision, dev
        self._dev_batches = TuningBatches(pad_id, None)
        self.train_dataset = ExampleDataset(train)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Optimise.

        Raises:
            ExpertError: The memory does not suffice.
        """
        with memory_explained():
            return super().train(*args, **kwargs)

    def measure(self) -> dict[str, float]:
        """Mean log-probability of the tokens of the dev answers, in nats; minus the dev loss."""
        own = share(self._dev)
        with memory_explained():
            sums = answer_logprobs(self.model, own, self._dev_batches, self._precision)
        values = gathered(list(zip(sums, (len(row.answer) for row in own), strict=True)))
        total, tokens = map(sum, zip(*values, strict=True))
        return {LOGPROB: total / tokens}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As of all answer trainers; unsloth computes its own, which wants the labels."""
        if self._job.backend == "unsloth":
            return SFTTrainer.compute_loss(self, model, inputs, *args, **kwargs)
        return super().compute_loss(model, inputs, *args, **kwargs)


def _numbered(rows: Sequence[Row]) -> Any:
    """A data set of the kind that SFTTrainer asks for; batches are made of the rows."""
    from datasets import Dataset  # type: ignore[import-untyped]

    return Dataset.from_dict({"row": list(range(len(rows)))})


def answer_logprobs(
    model: Any, rows: Sequence[Row], batches: TuningBatches, precision: Precision
) -> list[float]:
    """Summed log-probability in nats of each row's answer, [n]; the model is left in training."""
    device = next(model.parameters()).device
    computed = torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bfloat16"
    )  # as in training
    done: dict[int, float] = {}
    model.eval()
    with torch.no_grad(), computed:
        for chosen in token_budget_batches([row.length for row in rows], _DEV_TOKENS):
            batch = batches.batch([rows[i] for i in chosen])
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            done |= zip(chosen, _row_sums(model, inputs), strict=True)
    model.train()
    return [done[i] for i in range(len(rows))]


def _row_sums(model: Any, inputs: dict[str, torch.Tensor]) -> list[float]:
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    losses = [
        torch.nn.functional.cross_entropy(
            own.float(), wanted, ignore_index=IGNORED, reduction="sum"
        )
        for own, wanted in zip(logits, labels, strict=True)
    ]
    return [-float(loss) for loss in losses]


@contextmanager
def memory_explained() -> Iterator[None]:
    """A lack of memory as an error that says what to set.

    Raises:
        ExpertError: The memory does not suffice.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not _is_cpu(error):
            raise
        fix = (
            "lower training.micro_batch_size (the result stays the same) or max_length,"
            " or set training.gradient_checkpointing to true"
        )
        raise ExpertError("out of memory while tuning", key="training", fix=fix) from error


def _is_cpu(error: RuntimeError) -> bool:
    """Whether torch's CPU allocator has failed, which has no exception of its own."""
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def finetune_trainer(
    model: Any,
    tokenizer: Any,
    job: FinetuneJob,
    precision: Precision,
    train: Sequence[Row],
    dev: Sequence[Row],
    callbacks: list[TrainerCallback],
    folder: Path,
) -> FinetuneTrainer:
    """The trainer of a job; arguments as :class:`FinetuneTrainer`, ``folder`` for checkpoints.

    Raises:
        ConfigError: The adapters do not suit the trainer.
    """
    arguments = training_arguments(
        job.training,
        folder,
        precision,
        seed=job.seed,
        examples=len(train),
        metric=LOGPROB,
        kind=SFTConfig,
        **READY_BATCHES,
    )
    with adapters_explained():
        return FinetuneTrainer(model, tokenizer, job, precision, arguments, train, dev, callbacks)
