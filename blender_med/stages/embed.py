"""Stage ``embed``: the hidden states that every expert has for texts of the questions."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blender_med.config import result_fields
from blender_med.errors import ConfigError
from blender_med.experts.base import Prompt, StateExpert
from blender_med.experts.config import ExpertConfig
from blender_med.experts.engines import (
    check_gives_states,
    hidden_size,
    on_cuda,
    resolved_dtype,
    state_engine_choice,
)
from blender_med.experts.loading import load_state_experts
from blender_med.experts.local import fetch_weights
from blender_med.experts.revision import model_revision, weights_revision
from blender_med.fusers.hidden_states import QUESTION_ENCODER, Key, states_path, write_states
from blender_med.records import Candidate, HiddenState, Question, Route
from blender_med.stages.base import Reads, Run, Unit, chunks, unit_method, unit_range
from blender_med.stages.config import EmbedConfig
from blender_med.stages.lanes import ExpertStage, Lane, Share, Work
from blender_med.stages.route import (
    load_question_encoder,
    reads_of_routes,
    routed_to,
    stored_routes,
)
from blender_med.store.shards import part_path, read_parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


class Text(NamedTuple):
    """A text to embed: its key in the index, and what stands behind the question."""

    key: str
    option: int | None = None
    answer: str | None = None


class Embed(ExpertStage):
    """Hidden states by expert and range of questions, in a file beside each shard of the index."""

    name = "embed"
    reads: tuple[Reads, ...] = (
        Reads("prepare", ("id", "split", "task", "question", "context", "options")),
        Reads("generate", ("question_id", "expert", "sample", "text"), optional=True),
    )
    writes = HiddenState
    config: EmbedConfig

    def __init__(self, config: EmbedConfig, run: Run) -> None:
        super().__init__(config, run)
        if "answer" not in config.texts:
            self.reads = Embed.reads[:1]  # other answers then change nothing here
        elif run.recipe.stage("generate") is None:
            fix = "add stage generate before embed, or leave 'answer' out of 'texts'"
            raise ConfigError("there are no answers to embed", key="embed.texts", fix=fix)
        self.reads = (*self.reads, *reads_of_routes(run, self.name))
        for expert in run.experts:
            if expert.name == QUESTION_ENCODER:
                problem = "this name is kept for the encoder of the questions"
                fix = "give the expert another name"
                raise ConfigError(problem, key="experts", value=QUESTION_ENCODER, fix=fix)
            check_gives_states(expert, config.states)

    def identity(self) -> dict[str, Any]:
        """Adds each expert's settings, weights and engine, and the encoder's weights."""
        experts = [
            {
                "config": result_fields(expert),
                "revision": model_revision(expert),
                "engine": state_engine_choice(expert, self.config.states)[0],
                "dtype": resolved_dtype(expert, cuda=on_cuda()),
            }
            for expert in self.run.experts
        ]
        encoder = self.config.question_encoder
        revision = weights_revision(encoder) if encoder else None
        return {"config": result_fields(self.config), "experts": experts, "encoder": revision}

    def plan(self, shard_size: int | None) -> list[Unit]:
        """One unit per expert and range of questions, and per range for the encoder."""
        ranges = chunks(len(self._questions), shard_size or self.config.shard_size)
        names = [expert.name for expert in self.run.experts]
        names += [QUESTION_ENCODER] if self.config.question_encoder else []
        return [Unit(f"{n}-{r.start:07d}-{r.stop:07d}", len(r)) for n in names for r in ranges]

    def lanes(self, units: Sequence[Unit]) -> list[Lane]:
        """One lane per engine, and one for the encoder of the questions."""
        own = tuple(unit for unit in units if unit_method(unit.name) == QUESTION_ENCODER)
        return [
            *self.expert_lanes(units),
            *([Lane((QUESTION_ENCODER,), own, gpus=1)] if own else []),
        ]

    def begin(self, units: Sequence[Unit]) -> None:
        """Remove what another plan left, and say how large the states will be."""
        self._remove_other_plans()
        owners = {unit_method(unit.name) for unit in units}
        self._announce([expert for expert in self.run.experts if expert.name in owners])

    @contextmanager
    def worker(self, serves: Sequence[str], device: str | None = None) -> Iterator[Work]:
        """Experts of one engine, or the encoder; the states of a unit are written with its index.

        An engine starts with the first text and stops at the end.
        """
        if tuple(serves) == (QUESTION_ENCODER,):
            yield self._encoder()
            return
        configs, states = self.served(serves), self.config.states
        with ExitStack() as opened:
            experts = load_state_experts(configs, states, verbose=self.run.verbose, device=device)
            for expert in experts:
                opened.callback(expert.close)
                engine, reason = state_engine_choice(expert.config, states)
                self.run.note(f"{expert.config.name}: states by {engine} ({reason})")
            by_name = {expert.config.name: expert for expert in experts}
            yield lambda unit, _: self._embed(by_name[unit_method(unit.name)], unit)

    def is_written(self, unit: str) -> bool:
        """Whether the shard of the index is there, and the file of the states beside it."""
        states = states_path(part_path(self.folder, unit))
        return super().is_written(unit) and states.is_file()

    def extra_files(self) -> Mapping[str, Path]:
        """The files of the states, by name."""
        return {path.name: path for path in sorted(self.folder.glob("part-*.npy"))}

    def _remove_other_plans(self) -> None:
        """Remove files of states whose shard is not there: the shard is written last."""
        for path in self.extra_files().values():
            if not path.with_suffix(".parquet").is_file():
                path.unlink()

    def _announce(self, experts: Sequence[ExpertConfig]) -> None:
        """Say how large the states of each expert will be; fetches the weights for that."""
        texts = sum(len(self._texts(question)) for question in self._questions)
        for expert in experts:
            fetch_weights(expert)
            size = state_size(texts, hidden_size(expert), self.config)
            logger.info("embed: %s: %s", expert.name, size)

    def _embed(self, expert: StateExpert, unit: Unit) -> list[HiddenState]:
        asked = [
            (Key(question.id, text.key), expert.render_states(
                question, option=text.option, answer=text.answer))
            for question in routed_to(self._range(unit), self._routes, unit_method(unit.name))
            for text in self._texts(question)
        ]  # fmt: skip
        started = time.perf_counter()
        states = expert.hidden_states([prompt for _, prompt in asked])
        return self._written(unit, asked, states, time.perf_counter() - started)

    def _encoder(self) -> Work:
        """Makes the embedding of each question, as one slot."""
        encode_questions = load_question_encoder(str(self.config.question_encoder))

        def encode(unit: Unit, _: Share) -> list[HiddenState]:
            started = time.perf_counter()
            questions = self._range(unit)
            vectors = encode_questions(questions)
            asked = [(Key(question.id, "question"), Prompt("")) for question in questions]
            rows = list(vectors[:, None].numpy())
            return self._written(unit, asked, rows, time.perf_counter() - started)

        return encode

    def _written(
        self,
        unit: Unit,
        asked: Sequence[tuple[Key, Prompt]],
        states: Sequence[NDArray[np.float32]],
        seconds: float,
    ) -> list[HiddenState]:
        """Write the states; returns their index."""
        path = states_path(part_path(self.folder, unit.name))
        write_states(path, states, [key for key, _ in asked], self.config.dtype)
        total = sum(prompt.tokens + 1 for _, prompt in asked)
        return [
            HiddenState(
                question_id=key.question_id,
                expert=unit_method(unit.name),
                text=key.text,
                row=row,
                tokens=prompt.tokens,
                truncated_tokens=prompt.truncated_tokens,
                seconds=seconds * (prompt.tokens + 1) / total,
            )
            for row, (key, prompt) in enumerate(asked)
        ]

    def _range(self, unit: Unit) -> Sequence[Question]:
        return self._questions[unit_range(unit.name)]

    def _texts(self, question: Question) -> list[Text]:
        kinds, found = self.config.texts, list[Text]()
        if "question" in kinds:
            found.append(Text("question"))
        if "option" in kinds:
            options = range(len(question.options or ()))
            found += [Text(f"option:{i}", option=i) for i in options]
        if "answer" in kinds:
            own = self._candidates.get(question.id, [])
            found += [Text(f"answer:{c.key}", answer=c.text) for c in own]
        return found

    @cached_property
    def _questions(self) -> list[Question]:
        splits = self.config.splits
        return [q for q in self.run.questions if splits is None or q.split in splits]

    @cached_property
    def _routes(self) -> dict[str, Route]:
        return stored_routes(self.run, self.name)

    @cached_property
    def _candidates(self) -> dict[str, list[Candidate]]:
        found: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in read_parts(self.run.stage_folder("generate"), Candidate):
            found[candidate.question_id].append(candidate)
        return found


def state_size(texts: int, width: int, config: EmbedConfig) -> str:
    """How large the states of an expert are, in words."""
    slots, bytes_each = config.states.slots, 2 if config.dtype == "float16" else 4
    megabytes = texts * slots * width * bytes_each / 1e6
    return f"{texts:,} texts x {slots} x {width} {config.dtype}, {megabytes:,.1f} MB"
