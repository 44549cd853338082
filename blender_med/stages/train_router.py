"""Stage ``train-router``: learn from the scores which experts a question needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.fusers.question_gate import Floats, QuestionGate, fit_question_gate
from blender_med.metrics import METRIC_SPECS
from blender_med.rankers.config import check_source
from blender_med.records import Question, Score
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit
from blender_med.stages.config import GenerateConfig
from blender_med.stages.gate_config import TrainRouterConfig
from blender_med.stages.route import load_question_encoder
from blender_med.stages.training import check_scored
from blender_med.store.files import write_json
from blender_med.store.shards import read_parts

if TYPE_CHECKING:
    from blender_med.stages.route import QuestionEncoder

FIGURES = "figures.json"


class TrainRouter(Stage):
    """A gate of the questions in the stage's folder; ``QuestionGate.from_pretrained`` loads it."""

    name = "train-router"
    reads = (
        Reads("prepare", ("id", "split", "question", "context", "options")),
        Reads("score", ("question_id", "expert", "sample", "metric", "value")),
    )
    config: TrainRouterConfig

    def __init__(self, config: TrainRouterConfig, run: Run) -> None:
        super().__init__(config, run)
        check_scored(run, config.label, "train-router.label")
        generate = run.recipe.stage("generate")
        several = isinstance(generate, GenerateConfig) and len(generate.mcq.protocols) > 1
        if METRIC_SPECS[config.label].task == "mcq" and several:
            problem = "scores of two protocols would be one label"
            fix = "leave one protocol in 'mcq.protocols' of stage generate"
            raise ConfigError(problem, key="train-router.label", value=config.label, fix=fix)
        check_source(config.question_encoder, "train-router.question_encoder")

    def identity(self) -> dict[str, Any]:
        """Settings, and the weights of the encoder."""
        encoder = weights_revision(self.config.question_encoder)
        return super().identity() | {"encoder": encoder}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One gate."""
        return [Unit("router", 1)]

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Write the gate and how well it chooses on train and dev."""
        for unit in units:
            encode = load_question_encoder(self.config.question_encoder)
            scored = {split: self._scored(split, encode) for split in ("train", "dev")}
            gate = self._fit(scored["train"])
            gate.save_pretrained(self.folder)
            figures = [_figures(gate, split, own) for split, own in scored.items()]
            write_json(self.folder / FIGURES, figures)
            advance(unit.size)
            yield unit, []

    def extra_files(self) -> Mapping[str, Path]:
        """The gate and its figures."""
        names = ("config.json", "model.safetensors", FIGURES)
        return {name: self.folder / name for name in names if (self.folder / name).is_file()}

    @property
    def _experts(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.run.experts)

    def _fit(self, learned: _Scored) -> QuestionGate:
        config = self.config
        try:
            return fit_question_gate(
                learned.vectors,
                learned.scores,
                self._experts,
                question_encoder=config.question_encoder,
                label=config.label,
            )
        except BlenderMedError as error:
            raise error.under("train-router") from error

    def _scored(self, split: str, encode: QuestionEncoder) -> _Scored:
        """Questions of a split that have a score, with the mean over the samples of an expert."""
        columns = {name: i for i, name in enumerate(self._experts)}
        values: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in columns])
        for score in read_parts(self.run.stage_folder("score"), Score):
            if score.metric == self.config.label and score.expert in columns:
                values[score.question_id][columns[score.expert]].append(score.value)
        questions = [q for q in self.run.questions if q.split == split and q.id in values]
        rows = [[np.mean(own) if own else np.nan for own in values[q.id]] for q in questions]
        return _Scored(_vectors(questions, encode), np.array(rows).reshape(-1, len(columns)))


class _Scored(NamedTuple):
    """Embeddings of questions, [n, width], and scores of the experts, [n, experts]."""

    vectors: Floats
    scores: Floats


def _vectors(questions: Sequence[Question], encode: QuestionEncoder) -> Floats:
    found: Floats = encode(questions).double().numpy() if questions else np.zeros((0, 1))
    return found


def _figures(gate: QuestionGate, split: str, own: _Scored) -> dict[str, Any]:
    """Mean score of the expert of the highest weight, of each alone, and of the best of all."""
    whole = ~np.isnan(own.scores).any(axis=1)
    scores = own.scores[whole]
    if not len(scores):
        return {"split": split, "questions": 0}
    chosen = gate.expected(own.vectors[whole]).argmax(axis=1)
    means = dict(zip(gate.experts, scores.mean(axis=0).tolist(), strict=True))
    return {
        "split": split,
        "questions": len(scores),
        "routed": float(scores[np.arange(len(scores)), chosen].mean()),
        "oracle": float(scores.max(axis=1).mean()),
        **{f"expert:{name}": mean for name, mean in means.items()},
    }
