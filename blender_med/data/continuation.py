"""Passages as questions: given the beginning of a text, how does it go on? For pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from blender_med.config import Recipe
from blender_med.records import Passage, Question

_TYPE = "continuation"  # of question, in its ``meta``
_LEAST_TARGET = 8  # words; less of a text says little of how it goes on


class Continuation(Recipe):
    """How passages are cut: so many words are shown, so many behind them are to be foretold."""

    prefix_words: int = Field(96, ge=1)
    target_words: int = Field(48, ge=_LEAST_TARGET)


def continuations(passages: Iterable[Passage], cut: Continuation) -> Iterator[Question]:
    """Questions from consecutive, disjoint stretches of every passage.

    ``question`` is the beginning of a stretch, ``reference`` what follows. What is left over of a
    passage is shorter; it counts where at least eight words follow its beginning. The stretches
    of a passage are one group, so that no split has the end of another's.
    """
    whole = cut.prefix_words + cut.target_words
    for passage in passages:
        words = passage.text.split()
        for number, start in enumerate(range(0, len(words), whole)):
            prefix = words[start : start + cut.prefix_words]
            target = words[start + cut.prefix_words : start + whole]
            if len(target) >= _LEAST_TARGET:
                yield Question(
                    id=f"{passage.id}/{number}",
                    dataset=passage.dataset,
                    split=passage.split,
                    task="long",
                    question=" ".join(prefix),
                    reference=" ".join(target),
                    meta=dict(passage.meta)
                    | {"group": passage.meta.get("group", passage.id), "question_type": _TYPE},
                )


def is_continuation(question: Question) -> bool:
    """Whether a question is the beginning of a passage, to be read as it stands."""
    return question.meta.get("question_type") == _TYPE
