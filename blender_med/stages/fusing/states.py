"""Answers that an embedding fuser writes from the stored states of the questions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from blender_med.data.embedded import QUESTION_TEXT, StateExample
from blender_med.errors import ConfigError
from blender_med.fusers.base import Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.embedding_checkpoint import check_experts
from blender_med.fusers.hidden_states import QUESTION_ENCODER, StateStore
from blender_med.fusers.state_batches import StateBatches
from blender_med.records import FusedAnswer, HiddenState
from blender_med.stages.fusing.lineup import Lineup, Origin
from blender_med.store.shards import read_parts


def load_writer(
    folder: str | Path, store: StateStore, *, sparse: bool, device: str | None
) -> EmbeddingFuser:
    """An embedding fuser that writes, for the experts whose states are stored.

    Args:
        folder: Folder or Hub id of a trained fuser.
        store: The states.
        sparse: Whether an expert may have no states, because a route spared it.
        device: None takes CUDA where there is one.

    Raises:
        ConfigError: No such fuser, it chooses options, or it was trained with other experts or
            widths.
        DataError: Weights are missing or damaged.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    fuser = EmbeddingFuser.from_pretrained(folder, device=where)
    if fuser.config.decoder_config is None:
        fix = "name a fuser with head: {type: generate, ...}, or put this one into stage gate"
        raise ConfigError("this fuser chooses options", key="model", value=str(folder), fix=fix)
    own = dict(zip(fuser.config.experts, fuser.config.widths, strict=True))
    known = {name: store.width(name) for name in own if name in store.experts}
    check_experts(fuser.config, own | known if sparse else known)
    return fuser


class StateWriter:
    """Writes the answers of one fuser.

    Args:
        fuser: From :func:`load_writer`.
        embed: Folder of stage embed.
        store: Its states.
        sparse: As above.
        batch_size: Questions that are decoded together.
    """

    def __init__(
        self,
        fuser: EmbeddingFuser,
        embed: Path,
        store: StateStore,
        *,
        sparse: bool,
        batch_size: int,
    ) -> None:
        self._fuser, self._batch_size = fuser, batch_size
        self._batches = StateBatches(store, fuser.config, sparse=sparse)
        self._spent = _spent(embed)

    def answers(
        self,
        origin: Origin,
        lineups: Sequence[Lineup],
        decoding: Decoding,
        advance: Callable[[int], None],
    ) -> Iterator[FusedAnswer]:
        """A record for each line-up, in order; ``advance(n)`` reports n of them done.

        An answer costs what the experts with a weight read of the question (all experts where the
        gate reads them), and what the decoder wrote. Where it wrote nothing the top candidate
        stands in.

        Raises:
            DataError: States of a question are missing, or not finite.
        """
        for start in range(0, len(lineups), self._batch_size):
            own = lineups[start : start + self._batch_size]
            started = time.perf_counter()
            examples = [_example(lineup) for lineup in own]
            inputs = self._batches.inputs(examples)
            made = self._fuser.write(inputs["states"], inputs["questions"], decoding)
            seconds = (time.perf_counter() - started) / len(own)
            weights = made.weights.tolist()
            for lineup, generation, row in zip(own, made.generations, weights, strict=True):
                yield self._record(origin, lineup, generation, row, seconds)
            advance(len(own))

    def _record(
        self,
        origin: Origin,
        lineup: Lineup,
        generation: Generation,
        weights: Sequence[float],
        seconds: float,
    ) -> FusedAnswer:
        reads_question = self._fuser.config.gate_input == "question"
        weighed = zip(self._batches.experts, weights, strict=True)
        # A gate that reads the experts has them all read the question before it weighs them.
        used = tuple(name for name, weight in weighed if weight > 0 or not reads_question)
        known = self._spent[lineup.question.id]
        sources = (*used, *((QUESTION_ENCODER,) if reads_question else ()))
        read = [known[name] for name in sources if name in known]
        wrote = bool(generation.text)
        return FusedAnswer(
            question_id=lineup.question.id,
            method=origin.method,
            text=generation.text if wrote else lineup.top.text,
            outcome="fused" if wrote else "empty_generation",
            candidate=None if wrote else lineup.top.key,
            shown=() if wrote else (lineup.top.key,),
            top=lineup.top.key,
            rankers=() if wrote or origin.ranker is None else (origin.ranker,),
            prompt_tokens=sum(own.tokens for own in read),
            completion_tokens=generation.completion_tokens,
            truncated_tokens=sum(own.truncated_tokens for own in read),
            finish_reason=generation.finish_reason,
            seconds=seconds + sum(own.seconds for own in read),
            experts_used=used,
            protocol=lineup.top.protocol,
        )


def _example(lineup: Lineup) -> StateExample:
    question = lineup.question
    return StateExample(question.id, question.dataset, (QUESTION_TEXT,))


def _spent(embed: Path) -> Mapping[str, Mapping[str, HiddenState]]:
    """The index of the states of each question, by question and expert."""
    found: dict[str, dict[str, HiddenState]] = defaultdict(dict)
    for row in read_parts(embed, HiddenState):
        if row.text == QUESTION_TEXT:
            found[row.question_id][row.expert] = row
    return found
