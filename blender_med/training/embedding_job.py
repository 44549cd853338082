"""The training job of an embedding fuser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.embedded import StateExample
from blender_med.experts.revision import weights_revision
from blender_med.fusers.embedding_config import GenerateHeadConfig
from blender_med.training.card import CardText, write_card
from blender_med.training.checkpoints import CHECKPOINTS
from blender_med.training.embedding_config import EmbeddingFuserJob
from blender_med.training.embedding_examples import StoredStates
from blender_med.training.examples import TrainingExamples
from blender_med.training.job import Advance, Log, TrainingTask
from blender_med.training.precision import resolved_precision

_USAGE = """\
from blender_med.fusers.embedding import EmbeddingFuser

fuser = EmbeddingFuser.from_pretrained("path/to/{name}")"""
_LIMITS = """\
A fuser reads the hidden states of exactly these experts, made as in the run it learned from. It
does not know whether an answer is medically right, and its choice is no medical advice."""


def embedding_identity(job: EmbeddingFuserJob) -> dict[str, Any]:
    """Everything but states and data that decides what a job makes; loads no model."""
    head = job.embedding_fuser.head
    decoder = None
    if isinstance(head, GenerateHeadConfig) and isinstance(head.decoder, str):
        decoder = weights_revision(head.decoder, head.revision)
    return {
        "job": result_fields(job),
        "decoder": decoder,
        "start": job.start and weights_revision(job.start),
        "precision": resolved_precision(job.training.precision),
    }


class EmbeddingFuserTask(TrainingTask):
    """Trains an embedding fuser by what it chooses, or foresees, on dev."""

    kind = "embedding-fuser"

    def __init__(
        self,
        job: EmbeddingFuserJob,
        states: StoredStates,
        examples: TrainingExamples[StateExample],
    ) -> None:
        metric = f"eval_{job.dev_metric}"
        super().__init__(job.name, job.seed, job.training, metric, examples)
        self._job, self._states = job, states

    def identity(self) -> dict[str, Any]:
        """See :func:`embedding_identity`; adds the states."""
        return embedding_identity(self._job) | {"states": self._states.fingerprint}

    def trainer(self, folder: Path, advance: Advance) -> Any:
        """See :class:`~blender_med.training.embedding_trainer.EmbeddingTrainer`."""
        from blender_med.training.embedding_trainer import EmbeddingTrainer, fuser_to_train, spread
        from blender_med.training.trainer import job_callbacks, training_arguments

        job, settings, train = self._job, self._job.training, self.examples.train
        arguments = training_arguments(
            settings,
            folder / CHECKPOINTS,
            resolved_precision(settings.precision),
            seed=job.seed,
            examples=len(train),
            metric=self.metric,
        )
        return EmbeddingTrainer(
            fuser_to_train(job, self._states, train),
            job,
            self._states.store,
            arguments,
            train,
            spread(self.examples.dev, settings.max_dev_questions),
            self.metric,
            job_callbacks(job.name, settings, folder, self.metric, advance),
        )

    def finish(self, checkpoint: Path, folder: Path, log: Log, best_step: int) -> None:
        """Write the fuser and its card, with its figures on all dev questions."""
        from blender_med.fusers.embedding import EmbeddingFuser
        from blender_med.models import quiet
        from blender_med.training.curves import CURVES, write_curves
        from blender_med.training.embedding_evaluation import dev_columns

        fuser = EmbeddingFuser.from_pretrained(checkpoint)
        with quiet():
            fuser.save_pretrained(folder)
        write_curves(folder / CURVES, log, self.metric)
        figures: Mapping[str, Mapping[str, float]] = dev_columns(
            fuser, self._job, self._states.store, self.examples.dev
        )
        write_card(
            folder / "README.md",
            self._job,
            self._card_text(),
            self.examples,
            figures,
            metric=self.metric,
            best_step=best_step,
            log=log,
        )

    def _card_text(self) -> CardText:
        job, settings = self._job, self._job.embedding_fuser
        experts = ", ".join(self._states.experts(job))
        does = "writes an answer" if job.writes else "chooses an option"
        decoder = getattr(settings.head, "decoder", "")
        backbone = job.start or (decoder if isinstance(decoder, str) else "")
        return CardText(
            tags=("fusion", "embedding-fuser"),
            backbone=backbone,
            summary=f"An embedding fuser ({settings.mode}, gate {settings.gate.type}): it {does} "
            f"from the hidden states of {experts}.",
            usage=_USAGE.format(name=job.name),
            material="Hidden states of stage embed; a candidate is a text whose states are read.",
            limits=_LIMITS,
        )
