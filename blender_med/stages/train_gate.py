"""Stage ``train-gate``: fit embedding fusers on the stored states of the run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blender_med.data.embedded import StateExample
from blender_med.errors import ConfigError
from blender_med.registry import suggestion
from blender_med.stages.base import Advance, Reads, Run
from blender_med.stages.config import EmbedConfig
from blender_med.stages.gate_config import TrainGateConfig
from blender_med.stages.training import TrainingStage
from blender_med.training.embedding_config import EmbeddingFuserJob, check_embedding_job
from blender_med.training.examples import LEARNED_SPLITS, TrainingExamples

if TYPE_CHECKING:
    from blender_med.training.embedding_examples import StoredStates


class TrainGate(TrainingStage):
    """Trained embedding fusers, a folder each; ``EmbeddingFuser.from_pretrained`` loads one."""

    name = "train-gate"
    kind = "embedding fuser"
    reads = (
        Reads("prepare", ("id", "split", "task", "options", "answer_index", "reference")),
        Reads("embed", ("question_id", "expert", "text", "row")),
    )
    config: TrainGateConfig

    def __init__(self, config: TrainGateConfig, run: Run) -> None:
        super().__init__(config, run)
        for job in config.fusers:
            key = f"train-gate.fusers.{job.name}"
            check_embedding_job(job, f"{key}.")
            _check_experts(run, job, f"{key}.experts")
            _check_embedded(run, job, key)

    def identity(self) -> dict[str, Any]:
        """Settings, decoder and start of every fuser."""
        from blender_med.training.embedding_job import embedding_identity

        return {"fusers": [embedding_identity(job) for job in self.config.jobs]}

    def train(self, job: EmbeddingFuserJob, folder: Path, advance: Advance) -> bool:
        """Bring the folder of a fuser up to date."""
        from blender_med.training.embedding_job import EmbeddingFuserTask
        from blender_med.training.job import bring_up_to_date

        task = EmbeddingFuserTask(job, self._states, self.examples(job))
        return bring_up_to_date(task, folder, advance=advance)

    def steps(self, job: EmbeddingFuserJob) -> int:
        """Steps that a job takes at most."""
        return job.training.total_steps(len(self.examples(job).train))

    def examples(self, job: EmbeddingFuserJob) -> TrainingExamples[StateExample]:
        """Questions with their stored texts; read once for all fusers of the same needs."""
        from blender_med.training.embedding_examples import state_examples

        needs = job.writes, job.experts, job.embedding_fuser.gate_input
        if needs not in self._by_needs:
            source = f"run {self.run.recipe.name}"
            self._by_needs[needs] = state_examples(
                self.run.questions, self._states, job, source=source
            )
        return self._by_needs[needs]

    @cached_property
    def _states(self) -> StoredStates:
        from blender_med.training.embedding_examples import stored_states

        return stored_states(self.run.stage_folder("embed"))

    @cached_property
    def _by_needs(self) -> dict[tuple[Any, ...], TrainingExamples[StateExample]]:
        return {}


def _check_experts(run: Run, job: EmbeddingFuserJob, key: str) -> None:
    known = [expert.name for expert in run.experts]
    for name in job.experts or ():
        if name not in known:
            fix = suggestion(name, known)
            raise ConfigError("the run has no such expert", key=key, value=name, fix=fix)


def _check_embedded(run: Run, job: EmbeddingFuserJob, key: str) -> None:
    """Check that stage embed writes what a job reads; that it is there is the chain's concern."""
    embed = run.recipe.stage("embed")
    if not isinstance(embed, EmbedConfig):
        return
    text = "question" if job.writes else "option"
    if text not in embed.texts:
        fix = f"add '{text}' to 'texts' of stage embed"
        raise ConfigError("stage embed does not embed what this fuser reads", key=key, fix=fix)
    missing = [split for split in LEARNED_SPLITS if embed.splits and split not in embed.splits]
    if missing:
        fix = f"add {', '.join(missing)} to 'splits' of stage embed, or leave 'splits' out"
        raise ConfigError(f"stage embed leaves out split {missing[0]}", key=key, fix=fix)
    if job.embedding_fuser.gate_input == "question" and embed.question_encoder is None:
        fix = "give stage embed a question_encoder, or set gate_input: experts"
        raise ConfigError("the gate reads embeddings of the questions", key=key, fix=fix)
