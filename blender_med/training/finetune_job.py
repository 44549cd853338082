"""The job that tunes an expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.tuning import TuningExample
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.local import load_tokenizer
from blender_med.experts.made import made_expert
from blender_med.experts.rendering import Renderer
from blender_med.experts.revision import model_revision
from blender_med.training.card import CardText, write_card
from blender_med.training.checkpoints import CHECKPOINTS
from blender_med.training.examples import TrainingExamples
from blender_med.training.expert_config import FinetuneJob
from blender_med.training.job import Advance, Log, TrainingTask
from blender_med.training.precision import resolved_precision

METRIC = "eval_answer_logprob"

_USAGE = """\
from blender_med.experts import load_expert, load_expert_config

expert = load_expert(load_expert_config("path/to/the/recipe/of/{name}.yaml"))"""
_LIMITS = """\
An expert that was tuned on answers repeats their wording and their errors, and answers questions of
other areas worse or better than its base by chance. Its text is no medical advice."""


def finetune_identity(job: FinetuneJob, base: ExpertConfig) -> dict[str, Any]:
    """Everything but the data that decides what a job makes; imports torch, loads no model."""
    return {
        "job": result_fields(job),
        "base": model_revision(base),
        "prompt": result_fields(asking_expert(job, base)),
        "precision": resolved_precision(job.training.precision),
    }


def asking_expert(job: FinetuneJob, base: ExpertConfig) -> ExpertConfig:
    """The base with the prompt of the new expert, cut to the rows that are trained on."""
    own = {"max_model_len": job.max_length, "name": job.name}
    return ExpertConfig.model_validate(base.model_dump(exclude_unset=True) | job.expert | own)


class FinetuneTask(TrainingTask):
    """Tunes an expert and measures it by the log-probability of dev answers.

    Args:
        job: The recipe.
        base: The expert to start from.
        examples: What is learned.
    """

    kind = "expert"

    def __init__(
        self, job: FinetuneJob, base: ExpertConfig, examples: TrainingExamples[TuningExample]
    ) -> None:
        super().__init__(job.name, job.seed, job.training, METRIC, examples)
        self._job, self._base = job, base
        self._dev = examples.dev[: job.training.max_dev_questions]

    def identity(self) -> dict[str, Any]:
        """See :func:`finetune_identity`."""
        return finetune_identity(self._job, self._base)

    def trainer(self, folder: Path, advance: Advance) -> Any:
        """See :class:`~blender_med.training.finetune_trainer.FinetuneTrainer`."""
        from blender_med.models import check_vocabulary
        from blender_med.training.finetune_batches import tuning_rows
        from blender_med.training.finetune_model import model_to_tune
        from blender_med.training.finetune_trainer import finetune_trainer
        from blender_med.training.trainer import job_callbacks

        job, renderer = self._job, self._renderer()
        tokenizer = load_tokenizer(self._base)
        precision = resolved_precision(job.training.precision)
        train, dev = (tuning_rows(renderer, job, own) for own in (self.examples.train, self._dev))
        model = model_to_tune(job, self._base, precision)
        check_vocabulary(model, tokenizer, self._base.name)
        self._check_positions(model)
        callbacks = job_callbacks(job.name, job.training, folder, self.metric, advance)
        return finetune_trainer(
            model, tokenizer, job, precision, train, dev, callbacks, folder / CHECKPOINTS
        )

    def finish(self, checkpoint: Path, folder: Path, log: Log, best_step: int) -> None:
        """Write the expert and its card, with figures of base and expert on dev questions."""
        from blender_med.training.finetune_model import save_tuned

        job, base = self._job, self._base
        save_tuned(job, base, checkpoint, folder, resolved_precision(job.training.precision))
        load_tokenizer(base).save_pretrained(folder)
        write_card(
            folder / "README.md",
            job,
            self._card_text(),
            self.examples,
            self._figures(folder),
            metric=self.metric,
            best_step=best_step,
            log=log,
        )

    def _figures(self, folder: Path) -> dict[str, dict[str, float]]:
        from blender_med.training.expert_figures import answer_figures
        from blender_med.training.finetune_batches import tuning_rows

        job = self._job
        made = made_expert(job, self._base, folder, save=job.save)
        rows = tuning_rows(self._renderer(), job, self._dev)
        references = [row.text for row in rows[: job.written_questions]]
        return {
            name: answer_figures(expert, rows, references, job.answer_length)
            for name, expert in (("base", self._base), ("tuned", made))
        }

    def _renderer(self) -> Renderer:
        return Renderer(asking_expert(self._job, self._base), load_tokenizer(self._base))

    def _check_positions(self, model: Any) -> None:
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and self._job.max_length > positions:
            problem, fix = f"the model has {positions} positions", f"set it to {positions} at most"
            raise ConfigError(problem, key="max_length", value=self._job.max_length, fix=fix)

    def _card_text(self) -> CardText:
        job = self._job
        return CardText(
            tags=("expert", "lora" if job.lora else "full"),
            backbone=self._base.model or str(self._base.package),
            summary=f"An expert for medical questions, tuned from {self._base.name}.",
            usage=_USAGE.format(name=job.name),
            material=f"Loss on the answers alone, of at most {job.answer_length} tokens.",
            limits=_LIMITS,
            counted="answer_words",
        )
