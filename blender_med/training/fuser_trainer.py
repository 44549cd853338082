"""Trainers of fusers: Seq2SeqTrainer for encoder-decoders, trl's SFTTrainer for the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.integrations import unset_hf_deepspeed_config
from trl import SFTConfig

from blender_med.data.fusion import FusionExample
from blender_med.training.answer_trainer import (
    READY_BATCHES,
    AnswerTrainer,
    adapters_explained,
    token_mean,
)
from blender_med.training.batches import ExampleDataset
from blender_med.training.config import Precision
from blender_med.training.fuser_batches import FuserBatches, fused_length
from blender_med.training.fuser_config import FuserJob
from blender_med.training.fuser_evaluation import text_values, written
from blender_med.training.fuser_model import FuserModel, trained_model, writing_copy
from blender_med.training.processes import gathered, is_first, share, wait_for_all
from blender_med.training.trainer import JobTrainer, spreads_weights, training_arguments

WHOLE = "whole"  # folder of gathered weights, beside the checkpoints while texts are written
_EMPTY_ELSEWHERE = "FSDP_CPU_RAM_EFFICIENT_LOADING"
_CHARACTERS = 5  # of a token, roughly


class FuserTrainer(JobTrainer):
    """Trains a fuser and measures it by the texts that it writes for dev examples.

    Args:
        fuser: The model to train, and the formatter of its prompts.
        job: The recipe.
        precision: What the setting came to on this machine.
        arguments: From ``training_arguments``.
        train: Examples to learn from, at least one.
        dev: Examples to measure on, at least one.
        callbacks: What happens beside.
    """

    def __init__(
        self,
        fuser: FuserModel,
        job: FuserJob,
        precision: Precision,
        arguments: Any,
        train: Sequence[FusionExample],
        dev: Sequence[FusionExample],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            fuser.model,
            arguments,
            data_collator=FuserBatches(
                fuser.formatter,
                job.candidates,
                job.fuser.target_maxlength,
                encoder_decoder=fuser.is_encoder_decoder,
                seed=job.seed,
            ),
            train_dataset=_rows(train),
            eval_dataset=_rows(dev),
            processing_class=fuser.formatter.tokenizer,
            callbacks=callbacks,
        )
        self._job, self._precision, self._dev = job, precision, dev
        self._formatter = fuser.formatter
        self.train_dataset = ExampleDataset(train)

    def length_of(self, example: FusionExample) -> int:
        """Characters of an example, a measure of its row."""
        characters = _CHARACTERS * self._job.fuser.candidate_maxlength
        return fused_length(example, self._job.candidates.top_k, characters)

    def measure(self) -> dict[str, float]:
        """Mean of the dev metric; every process writes the texts of its share."""
        settings, own = self._job.training, share(self._dev)
        with self._writer() as fuser:
            texts = written(fuser, own, self._job.candidates.top_k, settings.decoding)
        self.model.train()
        values = gathered(text_values(settings.dev_metric, texts, own))
        return {f"eval_{settings.dev_metric}": fmean(values)}

    @contextmanager
    def _writer(self) -> Iterator[FuserModel]:
        """The model as it will write; weights that are spread are gathered through the disk."""
        if not spreads_weights(self):
            yield FuserModel(writing_copy(self.model, self._precision), self._formatter)
            return
        folder = Path(self.args.output_dir) / WHOLE
        self.save_model(str(folder))
        wait_for_all()
        with _loading_whole():
            whole = trained_model(self._job, folder, self._precision)
        wait_for_all()
        if is_first():
            shutil.rmtree(folder)
        model = writing_copy(whole.model, self._precision)
        whole = whole._replace(model=model.to(self.args.device))
        yield whole


@contextmanager
def _loading_whole() -> Iterator[None]:
    """Every process loads all weights, which the launchers of spread models prevent.

    ZeRO 3 would spread them as they load; for FSDP all processes but the first would leave them
    empty, to be sent them later.
    """
    unset_hf_deepspeed_config()  # the model in training is set up, nothing else asks for it
    before = os.environ.get(_EMPTY_ELSEWHERE)
    os.environ[_EMPTY_ELSEWHERE] = "false"
    try:
        yield
    finally:
        del os.environ[_EMPTY_ELSEWHERE]
        if before is not None:
            os.environ[_EMPTY_ELSEWHERE] = before


def _rows(examples: Sequence[FusionExample]) -> Any:
    """A data set of the kind that SFTTrainer asks for; batches are made of the examples."""
    from datasets import Dataset  # type: ignore[import-untyped]

    return Dataset.from_dict({"question_id": [example.question_id for example in examples]})


class Seq2SeqFuserTrainer(FuserTrainer, Seq2SeqTrainer):
    """Trains an encoder-decoder; the loss is the mean over the tokens of a step's answers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Not every encoder-decoder divides its own loss by the tokens of all micro-batches.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Cross-entropy of the answers' tokens, summed and divided by those of the whole step."""
        outputs, labels = model(**inputs), inputs["labels"]
        processes = self.accelerator.num_processes
        loss = token_mean(outputs.logits, labels, num_items_in_batch, processes)
        return (loss, outputs) if return_outputs else loss


class SFTFuserTrainer(FuserTrainer, AnswerTrainer):
    """Trains a decoder-only model on the tokens of its answers alone."""


def fuser_trainer(
    fuser: FuserModel,
    job: FuserJob,
    precision: Precision,
    train: Sequence[FusionExample],
    dev: Sequence[FusionExample],
    callbacks: list[TrainerCallback],
    folder: Path,
) -> FuserTrainer:
    """The trainer for a model of either family.

    Args:
        fuser: The model to train, and the formatter of its prompts.
        job: The recipe.
        precision: What the setting came to on this machine.
        train: Examples to learn from.
        dev: Examples to measure on.
        callbacks: What happens beside.
        folder: For checkpoints.

    Raises:
        ConfigError: The adapters do not suit the trainer.
    """
    arguments = training_arguments(
        job.training,
        folder,
        precision,
        seed=job.seed,
        examples=len(train),
        metric=f"eval_{job.training.dev_metric}",
        kind=Seq2SeqTrainingArguments if fuser.is_encoder_decoder else SFTConfig,
        **({} if fuser.is_encoder_decoder else READY_BATCHES),
    )
    if fuser.is_encoder_decoder:
        return Seq2SeqFuserTrainer(fuser, job, precision, arguments, train, dev, callbacks)
    with adapters_explained():
        return SFTFuserTrainer(fuser, job, precision, arguments, train, dev, callbacks)
