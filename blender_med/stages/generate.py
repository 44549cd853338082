"""Stage ``generate``: every expert answers every question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from typing import Any

from blender_med.config import result_fields
from blender_med.errors import ConfigError
from blender_med.experts.base import Expert
from blender_med.experts.cached import CachedExpert, cache_identity
from blender_med.experts.config import ExpertConfig
from blender_med.experts.engines import engine_choice, on_cuda, resolved_dtype
from blender_med.experts.loading import load_experts
from blender_med.experts.revision import model_revision
from blender_med.prompts.parse import PARSER
from blender_med.records import Candidate, Route
from blender_med.stages.answering import answer_questions
from blender_med.stages.base import Reads, Run, Unit, chunks, unit_method, unit_range
from blender_med.stages.config import GenerateConfig
from blender_med.stages.lanes import ExpertStage, Lane, Work
from blender_med.stages.route import reads_of_routes, routed_to, stored_routes
from blender_med.store.cache import GenerationCache


class Generate(ExpertStage):
    """Candidates of every expert; experts that share an engine are served by one process.

    Behind a stage route an expert answers only the questions that are routed to it.
    """

    name = "generate"
    reads: tuple[Reads, ...] = (
        Reads("prepare", ("id", "task", "question", "context", "options")),
        Reads("train-expert", (), optional=True),
    )
    writes = Candidate
    config: GenerateConfig

    def __init__(self, config: GenerateConfig, run: Run) -> None:
        super().__init__(config, run)
        self.reads = (*type(self).reads, *reads_of_routes(run, self.name))
        for expert in run.experts:
            check_sampling(expert, config)

    def identity(self) -> dict[str, Any]:
        """Adds each expert's settings, weights and engine; the parser where it reads choices."""
        experts = [
            {
                "config": result_fields(expert),
                "revision": model_revision(expert),
                "engine": engine_choice(expert)[0],
                "dtype": resolved_dtype(expert, cuda=on_cuda()),
            }
            for expert in self.run.experts
        ]
        parser = {"parser": PARSER} if "generative" in self.config.mcq.protocols else {}
        return super().identity() | {"experts": experts} | parser

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per expert and range of questions."""
        ranges = chunks(len(self.run.questions), shard_size or self.config.shard_size)
        return [
            Unit(f"{expert.name}-{r.start:07d}-{r.stop:07d}", len(r))
            for expert in self.run.experts
            for r in ranges
        ]

    def expected_rows(self) -> int | None:
        """Candidates: samples of every expert for every question; unknown behind a stage route."""
        if reads_of_routes(self.run, self.name):
            return None
        protocols = self.config.mcq.protocols
        generated = self.config.mcq.samples if "generative" in protocols else 0
        per_mcq = ("lm_eval" in protocols) + generated
        per_long = self.config.long.samples
        tasks = [question.task for question in self.run.questions]
        total = tasks.count("mcq") * per_mcq + tasks.count("long") * per_long
        return total * len(self.run.experts)

    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """One lane per engine."""
        return self.expert_lanes(units)

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """Experts of one engine, which starts with the first question and stops at the end."""
        configs = self.served(serves)
        with ExitStack() as opened:
            experts = load_experts(configs, verbose=self.run.verbose, device=device)
            for expert in experts:
                opened.callback(expert.close)
            cached = {e.config.name: self._cached(e, device, opened) for e in experts}
            yield lambda unit, _: self._answer(cached[unit_method(unit.name)], unit)

    def _cached(self, expert: Expert, device: str | None, opened: ExitStack) -> CachedExpert:
        config = expert.config
        engine, reason = engine_choice(config)
        self.run.note(f"{config.name}: engine {engine} ({reason})")
        dtype = resolved_dtype(config, cuda=on_cuda(device))
        if not self.config.cache:
            return CachedExpert(expert, None)
        cache = closing(GenerationCache(cache_identity(expert, engine, dtype)))
        return CachedExpert(expert, opened.enter_context(cache))

    def _answer(self, expert: CachedExpert, unit: Unit) -> list[Candidate]:
        own = self.run.questions[unit_range(unit.name)]
        questions = routed_to(own, self._routes, expert.expert.config.name)
        return answer_questions(expert, questions, self.config, seed=self.run.recipe.seed)

    @cached_property
    def _routes(self) -> dict[str, Route]:
        return stored_routes(self.run, self.name)


def check_sampling(expert: ExpertConfig, config: GenerateConfig) -> None:
    """Check the settings of the stage with those of one expert on top.

    Raises:
        ConfigError: Samples would be equal, or an answer that the recipe asks for is as long as
            everything that the expert can read.
    """
    for task, settings in (("long", config.long), ("mcq", config.mcq)):
        sampling = expert.sampling_with(settings.sampling)
        if settings.samples > 1 and sampling.temperature == 0:
            problem = f"expert '{expert.name}' answers greedily, so its samples would be equal"
            fix = "give its recipe a sampling.temperature above 0, or ask for one sample"
            key = f"generate.{task}.samples"
            raise ConfigError(problem, key=key, value=settings.samples, fix=fix)
        if task in config.model_fields_set and sampling.max_tokens >= expert.max_model_len:
            problem = (
                f"no room for a prompt in the {expert.max_model_len} tokens of '{expert.name}'"
            )
            fix = "lower it, or raise the expert's max_model_len"
            key = f"generate.{task}.sampling.max_tokens"
            raise ConfigError(problem, key=key, value=sampling.max_tokens, fix=fix)


def question_range(unit: str) -> str:
    """Which questions a unit of this stage stands for, such as ``0000000-0000128``."""
    return "-".join(unit.rsplit("-", 2)[1:])
