"""The transformers Trainer, set up for training jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from blender_med.data.pairs import RankingExample
from blender_med.errors import ConfigError, MissingDependencyError
from blender_med.training.batches import BatchMaker, EpochSampler, ExampleDataset, text_length
from blender_med.training.callbacks import (
    CheckpointMarker,
    DivergenceCheck,
    EarlyStopping,
    ProgressReport,
)
from blender_med.training.checkpoints import CHECKPOINTS, LOG
from blender_med.training.config import Precision, TrainingSettings
from blender_med.training.evaluation import ACCURACY, dev_accuracy
from blender_med.training.processes import is_first, process_count

_OPTIMIZERS = {"adafactor": "adafactor", "adamw": "adamw_torch"}
# The best and the last checkpoint, and the one before it for as long as the last is unfinished.
_KEPT_CHECKPOINTS = 3


class JobTrainer(Trainer):
    """Trains on examples in an order of each epoch's own, and measures by what the job measures.

    The steps of a training and what it draws follow from the seed alone, so that a resumed
    training repeats those of an undisturbed one. Subclasses define :meth:`measure`.
    """

    control: TrainerControl
    length_of: Callable[[Any], int]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of questions in the epoch's order."""
        dataset = self.train_dataset
        lengths = [self.length_of(dataset[0, i][1]) for i in range(len(dataset))]
        arguments = self.args
        step_size = arguments.train_batch_size * arguments.gradient_accumulation_steps
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=arguments.train_batch_size,
            sampler=self.sampler(lengths, step_size * process_count()),
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)

    def sampler(self, lengths: Sequence[int], step_size: int) -> EpochSampler:
        """The order of the examples in every epoch."""
        return EpochSampler(lengths, step_size, self.args.seed)

    def measure(self) -> dict[str, float]:
        """Values on dev by the name under which they are logged."""
        raise NotImplementedError

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure and log; replaces the Trainer's loop over batches."""
        metrics = self.measure()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class RankerTrainer(JobTrainer):
    """Trains a ranker and measures it by ranking dev examples.

    Args:
        ranker: Has ``training_batch``, ``forward`` with a loss, and ``rank``.
        arguments: From :func:`training_arguments`.
        train: Examples to learn from, at least one.
        dev: Examples to measure on, at least one.
        rank_settings: Keyword arguments of ``rank`` for that.
        callbacks: What happens beside.
    """

    length_of = staticmethod(text_length)

    def __init__(
        self,
        ranker: Any,
        arguments: TrainingArguments,
        train: Sequence[RankingExample],
        dev: Sequence[RankingExample],
        rank_settings: Mapping[str, Any],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            ranker,
            arguments,
            data_collator=BatchMaker(ranker, arguments.seed),
            train_dataset=ExampleDataset(train),
            eval_dataset=ExampleDataset(dev),
            callbacks=callbacks,
        )
        self._dev, self._rank_settings = dev, rank_settings
        # The rankers' forward takes any keyword, which the Trainer would read as "divides its
        # loss by the items of all micro-batches by itself".
        self.model_accepts_loss_kwargs = False

    def measure(self) -> dict[str, float]:
        """Pairwise accuracy on the dev examples."""
        return {ACCURACY: dev_accuracy(self.model, self._dev, self._rank_settings)}


def spreads_weights(trainer: Trainer) -> bool:
    """Whether each process holds only a part of the weights: FSDP, DeepSpeed ZeRO 3."""
    return trainer.is_fsdp_enabled or _zero_stage(trainer) == 3


def _zero_stage(trainer: Trainer) -> int | None:
    plugin = trainer.accelerator.state.deepspeed_plugin
    return None if plugin is None else plugin.zero_stage


def check_launcher(trainer: Trainer, *, gathers: bool) -> None:
    """Check that whole weights can be measured and saved, and have FSDP save them whole.

    Args:
        trainer: As the launcher has set it up.
        gathers: Whether it measures a copy of weights that are spread over the processes.

    Raises:
        ConfigError: They are spread, and it does not; or ZeRO 3 is not told to gather them.
    """
    if not spreads_weights(trainer):
        return
    if not gathers:
        fix = "launch with torchrun, or with DeepSpeed ZeRO 1 or 2"
        raise ConfigError("FSDP and ZeRO 3 spread the weights over the processes", fix=fix)
    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled:
        state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    elif not state.deepspeed_plugin.zero3_save_16bit_model:
        key = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
        fix = "set it to true in the DeepSpeed configuration"
        raise ConfigError("ZeRO 3 would save the weights in pieces", key=key, value=False, fix=fix)


def training_arguments(
    settings: TrainingSettings,
    folder: Path,
    precision: Precision,
    *,
    seed: int,
    examples: int,
    metric: str,
    kind: type[TrainingArguments] = TrainingArguments,
    **more: Any,
) -> TrainingArguments:
    """Settings of a job as those of the Trainer.

    Args:
        settings: Of the job.
        folder: For checkpoints.
        precision: What ``precision`` came to on this machine.
        seed: Of the job.
        examples: Number of training examples.
        metric: What the job measures.
        kind: Class of the arguments.
        more: Further ones of that class.

    Raises:
        ConfigError: The processes cannot share a step evenly.
    """
    every = settings.evaluation_steps(examples)
    arguments = kind(
        output_dir=str(folder),
        per_device_train_batch_size=min(settings.batch_size, settings.micro_batch_size),
        gradient_accumulation_steps=settings.accumulation_steps(process_count()),
        max_steps=settings.total_steps(examples),
        optim=_OPTIMIZERS[settings.optimizer],
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps(examples),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=_KEPT_CHECKPOINTS,
        metric_for_best_model=metric,
        greater_is_better=True,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        report_to="none",  # see reporters()
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        **more,
    )
    # Several visible GPUs would be wrapped in DataParallel, which cuts batches apart by rows.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def job_callbacks(
    name: str,
    settings: TrainingSettings,
    folder: Path,
    metric: str,
    advance: Callable[[int], None],
) -> list[TrainerCallback]:
    """What happens beside the training of a job.

    Args:
        name: Of the job, for the log.
        settings: Of the job.
        folder: Of what is trained; checkpoints, log and TensorBoard files are written into it.
        metric: What the job measures.
        advance: Called with optimiser steps as they are done.

    Raises:
        ConfigError: ``report_to`` names no integration of transformers.
        MissingDependencyError: An integration that it names is not installed.
    """
    return [
        DivergenceCheck(),
        EarlyStopping(metric, settings.patience),
        CheckpointMarker(folder / CHECKPOINTS, folder / LOG, metric),
        ProgressReport(name, metric, advance),
        *(reporters(settings.report_to, folder / "tensorboard") if is_first() else ()),
    ]


def reporters(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Callbacks that report to TensorBoard (files in ``folder``) and to other integrations.

    Raises:
        ConfigError: A name is none of an integration of transformers.
        MissingDependencyError: An integration is not installed.
    """
    from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

    key = "training.report_to"
    try:
        kinds = get_reporting_integration_callbacks(list(names))
        return [kind(_writer(folder)) if kind is TensorBoardCallback else kind() for kind in kinds]
    except ValueError as error:
        problem = f"no such integration: {error}"
        raise ConfigError(problem, key=key, value=names, fix="correct the name") from error
    except (ImportError, RuntimeError) as error:
        fix = "install it, or leave it out"
        raise MissingDependencyError(str(error), key=key, value=names, fix=fix) from error


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder))
