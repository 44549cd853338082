"""The trainer of embedding fusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainingArguments

from blender_med.data.embedded import StateExample
from blender_med.errors import ConfigError
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import Key, StateStore
from blender_med.fusers.state_batches import StateBatches, choice_value, choose
from blender_med.training.batches import EpochSampler, ExampleDataset, MixtureSampler
from blender_med.training.callbacks import WEIGHT
from blender_med.training.embedding_config import DevMetric, EmbeddingFuserJob
from blender_med.training.embedding_examples import StoredStates
from blender_med.training.trainer import JobTrainer

IGNORED = -100  # as a label: no token is asked for
_STANDARD_QUESTIONS = 1024  # whose states say mean and deviation of every feature
_DEV_QUESTIONS = 32  # in a forward pass of the decoder
_SHARED = ("projections.", "gate.", "combination.")
_SAME = ("widths", "mode", "gate", "gate_input", "question_width", "width", "layers",
         "attention_heads")  # fmt: skip


class LabelledBatches:
    """Turns items of ``ExampleDataset`` into arguments of the forward pass, with labels.

    Args:
        batches: Reads the states.
        tokenizer: Of the decoder; None where the fuser chooses options.
        target_maxlength: Most tokens of a target.
    """

    def __init__(self, batches: StateBatches, tokenizer: Any, target_maxlength: int) -> None:
        self._batches, self._tokenizer = batches, tokenizer
        self._target_maxlength = target_maxlength

    def __call__(self, items: Sequence[tuple[Any, StateExample]]) -> dict[str, Any]:
        """Arguments of ``forward``."""
        examples = [example for _, example in items]
        return self._batches.inputs(examples) | {"labels": self.labels(examples)}

    def labels(self, examples: Sequence[StateExample]) -> torch.Tensor:
        """Right options, [examples], or tokens of the targets, [examples, length]."""
        if self._tokenizer is None:
            return torch.tensor([example.gold for example in examples])
        rows = [self._target(str(example.target)) for example in examples]
        labels = torch.full((len(rows), max(map(len, rows))), IGNORED)
        for label, row in zip(labels, rows, strict=True):
            label[: len(row)] = torch.tensor(row)
        return labels

    def _target(self, text: str) -> list[int]:
        """Tokens of a target with its end; a longer one is cut and has no end."""
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        return [*ids, self._tokenizer.eos_token_id][: self._target_maxlength]


class EmbeddingTrainer(JobTrainer):
    """Trains an embedding fuser and measures it on dev.

    Args:
        fuser: The model to train.
        job: The recipe.
        store: The states.
        arguments: From ``training_arguments``.
        train: Examples to learn from, at least one.
        dev: Examples to measure on, at least one.
        metric: Name of the measurement.
        callbacks: What happens beside.
    """

    def __init__(
        self,
        fuser: EmbeddingFuser,
        job: EmbeddingFuserJob,
        store: StateStore,
        arguments: TrainingArguments,
        train: Sequence[StateExample],
        dev: Sequence[StateExample],
        metric: str,
        callbacks: list[TrainerCallback],
    ) -> None:
        batches = StateBatches(store, fuser.config)
        super().__init__(
            fuser,
            arguments,
            data_collator=LabelledBatches(batches, fuser.tokenizer, job.training.target_maxlength),
            train_dataset=ExampleDataset(train),
            eval_dataset=ExampleDataset(dev),
            callbacks=callbacks,
        )
        self._job, self._batches, self._train, self._dev = job, batches, train, dev
        self._metric = metric
        self.model_accepts_loss_kwargs = False  # its loss is the mean over a forward pass

    def length_of(self, example: StateExample) -> int:
        """Number of texts of an example, a measure of its rows."""
        return len(example.candidates)

    def sampler(self, lengths: Sequence[int], step_size: int) -> EpochSampler:
        """The data sets weighted by the temperature."""
        names = [example.dataset for example in self._train]
        temperature = self._job.training.sampling_temperature
        return MixtureSampler(names, temperature, lengths, step_size, self.args.seed)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer would count tokens, and there are none."""
        return 0

    def measure(self) -> dict[str, float]:
        """The metric on dev, and the mean weights of the experts."""
        self.model.eval()
        if self._job.writes:
            measured = writing_measure(self.model, self._collate, self._dev)
        else:
            metric = self._job.dev_metric
            measured = choice_measure(self.model, self._batches, self._dev, metric)
        self.model.train()
        names = self._batches.experts
        weights = zip(names, measured.weights.tolist(), strict=True)
        return {self._metric: measured.value} | {f"{WEIGHT}{name}": w for name, w in weights}

    @property
    def _collate(self) -> LabelledBatches:
        collator: Any = self.data_collator
        assert isinstance(collator, LabelledBatches)
        return collator


class Measured(NamedTuple):
    """How good a fuser is, higher is better, and the mean weight of each expert, [n]."""

    value: float
    weights: NDArray[np.float64]


def choice_measure(
    fuser: Any, batches: StateBatches, examples: Sequence[StateExample], metric: DevMetric
) -> Measured:
    """Share of right options, or mean log-likelihood of the right option in nats.

    Of equal probabilities the first option is chosen.
    """
    chosen = list(choose(fuser, batches, examples))
    values = [
        choice_value(own.probabilities, int(example.gold or 0), metric)
        for own, example in zip(chosen, examples, strict=True)
    ]
    return Measured(float(np.mean(values)), np.mean([own.weights for own in chosen], axis=0))


@torch.inference_mode()
def writing_measure(
    fuser: Any, collate: LabelledBatches, examples: Sequence[StateExample]
) -> Measured:
    """Mean log-likelihood of a token of the targets, in nats."""
    total, tokens = 0.0, 0
    weights: list[NDArray[np.float64]] = []
    for own in _slices(examples):
        batch = collate([(None, example) for example in own])
        batch["labels"] = batch["labels"].to(fuser.device)
        output = fuser(**batch)
        labels, logits = batch["labels"].flatten(), output.logits.flatten(0, 1).float()
        total -= float(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        tokens += int((labels != IGNORED).sum())
        weights += list(output.weights.double().cpu().numpy())
    return Measured(total / max(1, tokens), np.mean(weights, axis=0))


def _slices(examples: Sequence[StateExample]) -> Iterator[Sequence[StateExample]]:
    for start in range(0, len(examples), _DEV_QUESTIONS):
        yield examples[start : start + _DEV_QUESTIONS]


def fuser_to_train(
    job: EmbeddingFuserJob, states: StoredStates, train: Sequence[StateExample]
) -> EmbeddingFuser:
    """A new fuser, or one that starts from trained layers; scaled to the states.

    Raises:
        ConfigError: No expert or decoder of these names, or ``start`` is of other settings.
        DataError: Damaged weights, or states that are missing or not finite.
    """
    start = None if job.start is None else EmbeddingFuser.from_pretrained(job.start)
    experts = states.experts(job, start and list(start.config.experts))
    fuser = EmbeddingFuser.build(
        job.embedding_fuser,
        experts,
        slots=states.store.slots(next(iter(experts))),
        question_width=states.question_width(),
        texts=(str(example.target) for example in train),
    )
    if start is not None:
        take_over(fuser, start)
    few = spread(train, _STANDARD_QUESTIONS)
    keys = [Key(e.question_id, text) for e in few for text in e.candidates]
    rows = {name: torch.from_numpy(states.store.rows(name, keys)) for name in experts}
    fuser.standardise(rows)
    return fuser


def spread(examples: Sequence[StateExample], most: int | None) -> Sequence[StateExample]:
    """At most so many examples, from all over the list; None: all."""
    if most is None or len(examples) <= most:
        return examples
    return [examples[i * len(examples) // most] for i in range(most)]


def take_over(fuser: EmbeddingFuser, start: EmbeddingFuser) -> None:
    """Give a fuser the projections, gate and combination of another.

    Raises:
        ConfigError: The other has other experts or settings.
    """
    own, other = fuser.config, start.config
    names = ["experts", *_SAME, *(["slots"] if own.mode == "transformer" else [])]
    for name in names:
        if _plain(getattr(own, name)) != _plain(getattr(other, name)):
            fix = f"set it to {getattr(other, name)}, or start from another fuser"
            problem = f"the fuser to start from has another '{name}'"
            raise ConfigError(problem, key="start", value=getattr(own, name), fix=fix)
    shared: Mapping[str, torch.Tensor] = {
        name: weights for name, weights in start.state_dict().items() if name.startswith(_SHARED)
    }
    fuser.load_state_dict(shared, strict=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
