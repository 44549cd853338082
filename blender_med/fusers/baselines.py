"""What a trained fuser has to beat: concatenation, and the aggregator of Mixture-of-Agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blender_med.fusers.base import Advance, Fuser, Fusion, check_fusion_input
from blender_med.fusers.config import Decoding

_BETWEEN = "\n\n"


class Concatenation:
    """The candidates one after another, as they are; no model is asked."""

    def fusions(
        self,
        instructions: Sequence[str],
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        top_k: int,
        decoding: Decoding | None = None,
        advance: Advance | None = None,
    ) -> list[Fusion]:
        """A record for each question, in order; blank candidates are passed over.

        Raises:
            DataError: A question has no candidate, or a text is no string.
        """
        check_fusion_input(instructions, inputs, candidates)
        if advance is not None:
            advance(len(candidates))
        return [_joined(group[:top_k]) for group in candidates]


def _joined(texts: Sequence[str]) -> Fusion:
    whole = _BETWEEN.join(text for text in texts if text.strip())
    return Fusion(whole, "fused" if whole else "no_candidate_text", len(texts))


class TwoRounds:
    """Two layers of aggregation (Wang et al. 2024): drafts from the candidates, then one answer.

    Of k candidates k drafts are made; draft i reads all of them with candidate i first. Equal
    drafts count once.

    Args:
        fuser: Writes the drafts and the answer.
    """

    def __init__(self, fuser: Fuser) -> None:
        self._fuser = fuser

    def fusions(
        self,
        instructions: Sequence[str],
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        top_k: int,
        decoding: Decoding | None = None,
        advance: Advance | None = None,
    ) -> list[Fusion]:
        """A record for each question, in order; tokens and seconds are those of all drafts too.

        Raises:
            DataError: A question has no candidate, or a text is no string.
        """
        check_fusion_input(instructions, inputs, candidates)
        shown = [list(group[:top_k]) for group in candidates]
        owners = [i for i, group in enumerate(shown) for _ in group]
        turned = [group[j:] + group[:j] for group in shown for j in range(len(group))]
        steps = advance and _questions(advance, len(owners) + len(shown), len(shown))
        made = self._fuser.fusions(
            [instructions[i] for i in owners], [inputs[i] for i in owners], turned,
            top_k=top_k, decoding=decoding, advance=steps,
        )  # fmt: skip
        drafts: list[list[Fusion]] = [[] for _ in shown]
        for owner, draft in zip(owners, made, strict=True):
            drafts[owner].append(draft)
        texts = [list(dict.fromkeys(draft.text for draft in own)) for own in drafts]
        last = self._fuser.fusions(
            instructions, inputs, texts, top_k=top_k, decoding=decoding, advance=steps
        )
        return [_with_drafts(fusion, own) for fusion, own in zip(last, drafts, strict=True)]


def _questions(advance: Advance, texts: int, questions: int) -> Advance:
    """Takes numbers of texts that are done, and reports as many questions as they come to."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        before = done * questions // texts
        done += count
        if new := done * questions // texts - before:
            advance(new)

    return more


def _with_drafts(fusion: Fusion, drafts: Sequence[Fusion]) -> Fusion:
    """``fusion`` with the cost of its drafts; an empty one falls back to the first draft."""
    own = [fusion, *drafts]
    known = [f.seconds for f in own if f.seconds is not None]
    return replace(
        fusion,
        candidates=len(drafts),
        prompt_tokens=sum(f.prompt_tokens for f in own),
        completion_tokens=sum(f.completion_tokens for f in own),
        truncated_tokens=sum(f.truncated_tokens for f in own),
        seconds=sum(known) if known else None,
    )
