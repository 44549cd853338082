"""The training job of a ranker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.pairs import RankingExample
from blender_med.experts.revision import weights_revision
from blender_med.rankers import RANKERS
from blender_med.training.card import CardText, write_card
from blender_med.training.checkpoints import CHECKPOINTS
from blender_med.training.config import RankerJob
from blender_med.training.evaluation import ACCURACY, dev_figures
from blender_med.training.examples import TrainingExamples
from blender_med.training.job import Advance, Log, TrainingTask, bring_up_to_date
from blender_med.training.precision import resolved_precision

_USAGE = """\
from {module} import {cls}

ranker = {cls}.from_pretrained("path/to/{name}")
ranker.rank(["What causes anemia?"], [["Iron deficiency.", "It is a kind of rash."]])"""
_LIMITS = """\
A ranker repeats what its labels reward. It does not know whether an answer is medically right, and
its choice is no medical advice."""


def train_ranker(
    job: RankerJob,
    examples: TrainingExamples[RankingExample],
    folder: Path,
    *,
    force: bool = False,
    advance: Advance = lambda steps: None,
) -> bool:
    """Bring a ranker's folder up to date; see :func:`bring_up_to_date`."""
    return bring_up_to_date(RankerTask(job, examples), folder, force=force, advance=advance)


def ranker_identity(job: RankerJob) -> dict[str, Any]:
    """Everything but the data that decides what a job makes; imports torch, loads no model."""
    return {
        "job": result_fields(job),
        "backbone": weights_revision(job.ranker.backbone, job.ranker.revision),
        "precision": resolved_precision(job.training.precision),
    }


class RankerTask(TrainingTask):
    """Trains a ranker by pairwise accuracy on dev."""

    kind = "ranker"

    def __init__(self, job: RankerJob, examples: TrainingExamples[RankingExample]) -> None:
        super().__init__(job.name, job.seed, job.training, ACCURACY, examples)
        self._job = job

    def identity(self) -> dict[str, Any]:
        """See :func:`ranker_identity`."""
        return ranker_identity(self._job)

    def trainer(self, folder: Path, advance: Advance) -> Any:
        """See :class:`~blender_med.training.trainer.RankerTrainer`."""
        from blender_med.training.trainer import RankerTrainer, job_callbacks, training_arguments

        job, settings = self._job, self._job.training
        precision = resolved_precision(settings.precision)
        arguments = training_arguments(
            settings,
            folder / CHECKPOINTS,
            precision,
            seed=job.seed,
            examples=len(self.examples.train),
            metric=ACCURACY,
        )
        return RankerTrainer(
            job.ranker.build(len(job.labels)),
            arguments,
            self.examples.train,
            self.examples.dev[: settings.max_dev_questions],
            job.ranker.dev_settings(precision),
            job_callbacks(job.name, settings, folder, ACCURACY, advance),
        )

    def finish(self, checkpoint: Path, folder: Path, log: Log, best_step: int) -> None:
        """Write the ranker and its card, with its figures on all dev questions."""
        from blender_med.models import quiet, torch_device

        kind = RANKERS.load(self._job.ranker.type)
        ranker = kind.from_pretrained(checkpoint, device=torch_device(None))
        figures: Mapping[str, float] = dev_figures(ranker, self.examples.dev)
        with quiet():
            ranker.save_pretrained(folder)
        write_card(
            folder / "README.md",
            self._job,
            self._card_text(),
            self.examples,
            {"value": figures},
            metric=ACCURACY,
            best_step=best_step,
            log=log,
        )

    def _card_text(self) -> CardText:
        job = self._job
        module, _, cls = RANKERS[job.ranker.type].partition(":")
        return CardText(
            tags=("ranking", job.ranker.type),
            backbone=job.ranker.backbone,
            summary=f"A {job.ranker.type} ranker: it orders candidate answers to a question.",
            usage=_USAGE.format(module=module, cls=cls, name=job.name),
            material=f"Labels: {', '.join(job.labels)} (higher is better).",
            limits=_LIMITS,
        )
