"""The training job of a fuser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.fusion import FusionExample
from blender_med.training.backbone import backbone_revision
from blender_med.training.card import CardText, write_card
from blender_med.training.checkpoints import CHECKPOINTS
from blender_med.training.examples import TrainingExamples
from blender_med.training.fuser_config import FuserJob
from blender_med.training.job import Advance, Log, TrainingTask, bring_up_to_date
from blender_med.training.precision import resolved_precision

_USAGE = """\
from blender_med.fusers.genfuser import GenFuser

fuser = GenFuser.from_pretrained("path/to/{name}")
candidates = [["Iron deficiency.", "It is a lack of iron."]]
fuser.fuse(["What causes anemia?"], [""], candidates, top_k={top_k})"""
_LIMITS = """\
A fuser writes what the candidates suggest, and repeats their errors. It can state what none of them
says. It does not know whether an answer is medically right, and its text is no medical advice."""


def train_fuser(
    job: FuserJob,
    examples: TrainingExamples[FusionExample],
    folder: Path,
    *,
    force: bool = False,
    advance: Advance = lambda steps: None,
) -> bool:
    """Bring a fuser's folder up to date; see :func:`bring_up_to_date`."""
    return bring_up_to_date(FuserTask(job, examples), folder, force=force, advance=advance)


def fuser_identity(job: FuserJob) -> dict[str, Any]:
    """Everything but the data that decides what a job makes; imports torch, loads no model."""
    return {
        "job": result_fields(job),
        "backbone": backbone_revision(job.fuser.backbone, job.fuser.revision),
        "precision": resolved_precision(job.training.precision),
    }


class FuserTask(TrainingTask):
    """Trains a fuser by the texts that it writes for dev questions."""

    kind = "fuser"
    gathers = True

    def __init__(self, job: FuserJob, examples: TrainingExamples[FusionExample]) -> None:
        metric = f"eval_{job.training.dev_metric}"
        super().__init__(job.name, job.seed, job.training, metric, examples)
        self._job = job
        self._dev = examples.dev[: job.training.max_dev_questions]

    def identity(self) -> dict[str, Any]:
        """See :func:`fuser_identity`."""
        return fuser_identity(self._job)

    def trainer(self, folder: Path, advance: Advance) -> Any:
        """See :class:`~blender_med.training.fuser_trainer.FuserTrainer`."""
        from blender_med.training.fuser_model import model_to_train
        from blender_med.training.fuser_trainer import fuser_trainer
        from blender_med.training.trainer import job_callbacks

        job, settings = self._job, self._job.training
        precision = resolved_precision(settings.precision)
        return fuser_trainer(
            model_to_train(job, precision),
            job,
            precision,
            self.examples.train,
            self._dev,
            job_callbacks(job.name, settings, folder, self.metric, advance),
            folder / CHECKPOINTS,
        )

    def finish(self, checkpoint: Path, folder: Path, log: Log, best_step: int) -> None:
        """Write the fuser and its card, with its figures on the dev questions it was chosen by."""
        from blender_med.fusers.generation import TransformersEngine
        from blender_med.fusers.genfuser import GenFuser
        from blender_med.models import quiet, torch_device
        from blender_med.training.fuser_evaluation import dev_columns, written
        from blender_med.training.fuser_model import trained_model, writing_copy

        job, decoding = self._job, self._job.training.decoding
        precision = resolved_precision(job.training.precision)
        fuser = trained_model(job, checkpoint, precision)
        with quiet():
            engine = TransformersEngine(fuser.model, fuser.formatter)
            GenFuser(fuser.formatter, engine).save_pretrained(folder)
        writer = writing_copy(fuser.model, precision).to(torch_device(None))
        texts = written(fuser._replace(model=writer), self._dev, job.candidates.top_k, decoding)
        write_card(
            folder / "README.md",
            job,
            self._card_text(),
            self.examples,
            dev_columns(texts, self._dev),
            metric=self.metric,
            best_step=best_step,
            log=log,
        )

    def _card_text(self) -> CardText:
        job = self._job
        shown = job.candidates
        order = shown.metric or f"ranker {shown.ranker}"
        return CardText(
            tags=("fusion", job.fuser.type),
            backbone=job.fuser.backbone,
            summary="A GenFuser: it writes one answer from the candidate answers to a question.",
            usage=_USAGE.format(name=job.name, top_k=shown.top_k),
            material=f"Candidates: the {shown.top_k} best by {order}, {shown.order}. "
            "Target: the reference answer.",
            limits=_LIMITS,
        )
