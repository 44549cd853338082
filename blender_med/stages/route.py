"""Stage ``route``: a gate says which experts each question needs, before any has run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blender_med.data.pairs import source_text
from blender_med.errors import BlenderMedError, ConfigError
from blender_med.experts.revision import weights_revision
from blender_med.rankers.config import check_source
from blender_med.records import Question, Route
from blender_med.stages.base import Advance, Reads, Run, Stage, Unit, chunks
from blender_med.stages.gate_config import RouteConfig
from blender_med.store.shards import read_parts

if TYPE_CHECKING:
    import torch

    from blender_med.fusers.embedding import EmbeddingFuser

_QUESTION_TOKENS = 256  # what all-MiniLM-L6-v2 was trained with; fewer where an encoder has fewer

QuestionEncoder = Callable[[Sequence[Question]], "torch.Tensor"]


class RouteStage(Stage):
    """The experts of each question, the one with the highest weight first."""

    name = "route"
    reads = (Reads("prepare", ("id", "question", "context", "options")),)
    writes = Route
    config: RouteConfig

    def __init__(self, config: RouteConfig, run: Run) -> None:
        super().__init__(config, run)
        check_source(config.fuser, "route.fuser")
        check_source(config.question_encoder, "route.question_encoder")

    def identity(self) -> dict[str, Any]:
        """Weights of fuser and encoder, wherever they stand."""
        return {
            "experts_per_question": self.config.experts_per_question,
            "fuser": weights_revision(self.config.fuser),
            "encoder": weights_revision(self.config.question_encoder),
        }

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per range of questions."""
        ranges = chunks(len(self.run.questions), shard_size or self.config.shard_size)
        return [Unit(f"{r.start:07d}-{r.stop:07d}", len(r)) for r in ranges]

    def expected_rows(self) -> int:
        """A route for every question."""
        return len(self.run.questions)

    def execute(self, units: Sequence[Unit], advance: Advance) -> Iterator[tuple[Unit, list[Any]]]:
        """Yield the routes of each unit."""
        fuser = self._fuser()
        encode = load_question_encoder(self.config.question_encoder)
        for unit in units:
            start, stop = (int(number) for number in unit.name.split("-"))
            yield unit, self._routes(fuser, encode, self.run.questions[start:stop])
            advance(unit.size)

    def _routes(
        self, fuser: EmbeddingFuser, encode: QuestionEncoder, questions: Sequence[Question]
    ) -> list[Route]:
        import torch

        started = time.perf_counter()
        with torch.inference_mode():
            weights = fuser.route(encode(questions)).weights.double().tolist()
        seconds = (time.perf_counter() - started) / max(1, len(questions))
        names = fuser.config.experts
        return [
            self._route(question, dict(zip(names, own, strict=True)), seconds)
            for question, own in zip(questions, weights, strict=True)
        ]

    def _route(self, question: Question, weights: dict[str, float], seconds: float) -> Route:
        order = sorted((name for name in weights if weights[name] > 0), key=lambda n: -weights[n])
        chosen = tuple(order[: self.config.experts_per_question])
        return Route(question.id, chosen, tuple(weights[name] for name in chosen), seconds)

    def _fuser(self) -> EmbeddingFuser:
        from blender_med.fusers.embedding import EmbeddingFuser

        try:
            fuser = EmbeddingFuser.from_pretrained(self.config.fuser)
        except BlenderMedError as error:
            raise error.under("route") from error
        own, known = sorted(fuser.config.experts), sorted(e.name for e in self.run.experts)
        if own != known:
            fix = f"name the experts {', '.join(own)}, or another fuser"
            problem = "the gate chooses among other experts than those of the run"
            raise ConfigError(problem, key="experts", value=known, fix=fix)
        return fuser


def load_question_encoder(source: str) -> QuestionEncoder:
    """Embeddings of questions as the gate reads them, [questions, width].

    Raises:
        ConfigError: No such model.
    """
    from blender_med.models import load_config
    from blender_med.rankers.pair_config import most_positions
    from blender_med.rankers.similarity import EmbeddingRanker

    length = min(_QUESTION_TOKENS, most_positions(load_config(source)) or _QUESTION_TOKENS)
    model = EmbeddingRanker.from_pretrained(source, max_length=length)
    return lambda questions: model.vectors([source_text(question) for question in questions])


def stored_routes(run: Run) -> dict[str, Route]:
    """Routes of a run by question; {} without stage route."""
    if run.recipe.stage("route") is None:
        return {}
    return {route.question_id: route for route in read_parts(run.stage_folder("route"), Route)}


def routed_to(
    questions: Sequence[Question], routes: dict[str, Route], expert: str
) -> list[Question]:
    """The questions that an expert gets: all of them without routes."""
    return [q for q in questions if q.id not in routes or expert in routes[q.id].experts]
