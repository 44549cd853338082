"""The part of ``Blender`` that ranks and compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blender_med.blender.arguments import (
    Rows,
    check_batch_size,
    check_choice,
    check_texts,
    in_order,
    joined,
    references,
    repeated,
    rows,
)
from blender_med.blender.conversations import Conversation, conversation_pairs
from blender_med.errors import ConfigError
from blender_med.rankers.base import RankedCandidates, Rankings, check_candidates

# Most tokens of a question and of a candidate; None: as the ranker was loaded.
Lengths = tuple[int | None, int | None]

_BOTH_ORDERS, _A_FIRST, _B_FIRST = "[A,B]+[B,A]", "[A,B]", "[B,A]"
# Strategy of each way to find the best and the worst candidate.
COMPARISONS = {"bubble": "bubble", "full": "full"}
_WORST = {"bubble": "bubble_worst", "full": "full"}


@dataclass(frozen=True, slots=True)
class BlenderConfig:
    """Settings of a Blender.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; None takes CUDA where there is one.
        use_tqdm: Whether progress is shown.
    """

    device: str | None = None
    use_tqdm: bool = True


class RankingBlender:
    """Ranks and compares candidate answers; see :meth:`loadranker`.

    Args:
        blender_config: Device and progress.
    """

    def __init__(self, blender_config: BlenderConfig | None = None) -> None:
        self.blender_config = blender_config or BlenderConfig()
        self._ranker: Any = None

    @property
    def ranker(self) -> Any:
        """The ranker.

        Raises:
            ConfigError: None is loaded.
        """
        if self._ranker is None:
            raise ConfigError("no ranker is loaded", fix="call loadranker(path) first")
        return self._ranker

    def loadranker(
        self,
        ranker_path: str | Path,
        device: str | None = None,
        *,
        model_name: str | Path | None = None,
        source_maxlength: int | None = None,
        candidate_maxlength: int | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        """Load a ranker.

        Args:
            ranker_path: Folder or Hub id of a ranker of this package, of PairRM in either of its
                layouts (``llm-blender/PairRM``, ``llm-blender/PairRM-hf``), or of a reward model
                (a sequence classifier with one output).
            device: Where to put it; None: that of ``blender_config``.
            model_name: PairRanker only: the backbone, in place of the one the checkpoint names.
            source_maxlength: Most tokens of a question; None: what the checkpoint names.
            candidate_maxlength: Most tokens of a candidate; None: what the checkpoint names.
            dtype: Of the weights.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: No such checkpoint or device, or not one of a ranker.
            DataError: Weights are missing, have another shape, or are pickled.
        """
        from blender_med.models import torch_device
        from blender_med.rankers.checkpoint import load_ranker

        self._ranker = load_ranker(
            ranker_path,
            device=torch_device(device or self.blender_config.device),
            backbone=model_name,
            source_maxlength=source_maxlength,
            candidate_maxlength=candidate_maxlength,
            dtype=dtype,
            revision=revision,
            allow_pickle=allow_pickle,
        )

    def rank(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        batch_size: int = 8,
        disable_tqdm: bool = False,
        *,
        source_max_length: int | None = None,
        candidate_max_length: int | None = None,
    ) -> Rows:
        """Rank the candidates of each input; a pairwise ranker compares all ordered pairs.

        Args:
            inputs: Questions, [n].
            candidates: Candidates of each question, [n][k]; k may differ.
            instructions: Prepended to the inputs, without a separator, [n].
            return_scores: Return scores, higher is better, in place of ranks.
            batch_size: Rows of a forward pass that are as long as they can be; more where they
                are shorter. Speed only.
            disable_tqdm: Show no progress.
            source_max_length: Most tokens of a question, for this call.
            candidate_max_length: Most tokens of a candidate, for this call.

        Returns:
            Ranks, 1 is best, ties share the lower number, int32 [n, k]; or scores, float32
            [n, k]. Where k differs: a list of n such rows.

        Raises:
            ConfigError: No ranker is loaded, or ``batch_size`` is below 1.
            DataError: The arguments do not fit each other, or an input has no candidate.
        """
        sources = joined(inputs, instructions)
        check_candidates(sources, candidates)
        lengths = source_max_length, candidate_max_length
        rankings = self._rankings(sources, candidates, batch_size, disable_tqdm, lengths)
        if return_scores:
            return rows([ranking.scores for ranking in rankings], np.float32)
        return rows([ranking.ranks for ranking in rankings], np.int32)

    def rank_with_ref(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        batch_size: int = 8,
        ref_mode: str = "longest",
        ref_candidates: Sequence[str] | None = None,
        mode: str = _BOTH_ORDERS,
        *,
        source_max_length: int | None = None,
        candidate_max_length: int | None = None,
    ) -> Rows:
        """Rank the candidates of each input by how they compare with one reference candidate.

        Args:
            inputs: Questions, [n].
            candidates: Candidates of each question, [n][k]; k may differ.
            instructions: Prepended to the inputs, [n].
            return_scores: Return scores, higher is better, in place of ranks.
            batch_size: As in :meth:`rank`.
            ref_mode: Which candidate is the reference: ``longest``, ``shortest`` or
                ``median_length`` in characters, ``first`` or ``last``.
            ref_candidates: Reference of each input, [n]; overrides ``ref_mode``.
            mode: As in :meth:`compare`.
            source_max_length: As in :meth:`rank`.
            candidate_max_length: As in :meth:`rank`.

        Returns:
            As :meth:`rank`; scores are float64, 0 for the reference itself.

        Raises:
            ConfigError: Unknown ``ref_mode`` or ``mode``, or see :meth:`rank`.
            DataError: See :meth:`rank`.
        """
        from blender_med.rankers.aggregate import ranks

        sources = joined(inputs, instructions)
        check_candidates(sources, candidates)
        sizes = [len(group) for group in candidates]
        pairs = zip(
            repeated(references(candidates, ref_mode, ref_candidates), sizes),
            (text for group in candidates for text in group),
            strict=True,
        )
        lengths = source_max_length, candidate_max_length
        logits = self._logits(repeated(sources, sizes), list(pairs), batch_size, mode, lengths)
        scores = np.split(-logits.astype(np.float64), np.cumsum(sizes)[:-1])
        if return_scores:
            return rows(scores, np.float64)
        return rows([ranks(own) for own in scores], np.int32)

    def compare(
        self,
        inputs: Sequence[str],
        candidates_A: Sequence[str],
        candidates_B: Sequence[str],
        instructions: Sequence[str] | None = None,
        batch_size: int = 4,
        return_logits: bool = False,
        mode: str = _BOTH_ORDERS,
        disable_tqdm: bool = False,
    ) -> NDArray[np.floating] | NDArray[np.bool_]:
        """Compare two candidates for each input.

        Args:
            inputs: Questions, [n].
            candidates_A: One candidate of each question, [n].
            candidates_B: The other one, [n].
            instructions: Prepended to the inputs, [n].
            batch_size: As in :meth:`rank`.
            return_logits: Return logits in place of verdicts.
            mode: ``[A,B]+[B,A]`` adds up both orders, so that the verdict does not depend on
                which is A; ``[A,B]`` reads A first. ``[B,A]`` reads B first and, as in
                llm-blender, its logit is about B: > 0 means that B is better. Rankers that score
                one candidate at a time take the difference of their scores in every mode.
            disable_tqdm: Show no progress.

        Returns:
            Logits, float32 [n], > 0: A is better; or whether they are above 0, bool [n].

        Raises:
            ConfigError: Unknown ``mode``, or see :meth:`rank`.
            DataError: The arguments do not fit each other.
        """
        sources = joined(inputs, instructions)
        for name, texts in (("candidates_A", candidates_A), ("candidates_B", candidates_B)):
            check_texts(name, texts, len(sources))
        pairs = list(zip(candidates_A, candidates_B, strict=True))
        logits = self._logits(sources, pairs, batch_size, mode, disable_tqdm=disable_tqdm)
        return logits if return_logits else logits > 0

    def compare_conversations(
        self,
        conversations_a: Sequence[Conversation],
        conversations_b: Sequence[Conversation],
        batch_size: int = 4,
        return_logits: bool = False,
        mode: str = _BOTH_ORDERS,
    ) -> NDArray[np.floating] | NDArray[np.bool_]:
        """Compare the assistant's turns of two conversations with the same user turns.

        Args:
            conversations_a: Each a list of turns ``{"role": "USER" | "ASSISTANT", "content":
                text}``, the roles in turn, the user first, [n].
            conversations_b: The same number of turns each, [n].
            batch_size: As in :meth:`rank`.
            return_logits: As in :meth:`compare`.
            mode: As in :meth:`compare`.

        Returns:
            As :meth:`compare`.

        Raises:
            ConfigError: Unknown ``mode``, or see :meth:`rank`.
            DataError: A conversation is not of this form, or the user turns differ.
        """
        pairs = conversation_pairs(conversations_a, conversations_b)
        return self.compare(
            [pair.source for pair in pairs],
            [pair.first for pair in pairs],
            [pair.second for pair in pairs],
            batch_size=batch_size,
            return_logits=return_logits,
            mode=mode,
        )

    def get_best_of_n(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        pairrm_cmp_type: str = "bubble",
        return_all: bool = False,
        batch_size: int = 8,
    ) -> list[str] | list[list[str]]:
        """The best candidate of each input.

        Args:
            inputs: Questions, [n].
            candidates: Candidates of each question, [n][k]; k may differ.
            instructions: Prepended to the inputs, [n].
            pairrm_cmp_type: How a pairwise ranker finds it: ``bubble`` (k - 1 pairs in both
                orders) or ``full`` (all ordered pairs).
            return_all: Return all candidates, the best first.
            batch_size: As in :meth:`rank`.

        Returns:
            [n] texts, or [n][k] with ``return_all``.

        Raises:
            ConfigError: Unknown ``pairrm_cmp_type``, or see :meth:`rank`.
            DataError: See :meth:`rank`.
        """
        check_choice("pairrm_cmp_type", pairrm_cmp_type, COMPARISONS)
        sources = joined(inputs, instructions)
        check_candidates(sources, candidates)
        rankings = self._rankings(
            sources, candidates, batch_size, strategy=COMPARISONS[pairrm_cmp_type]
        )
        ordered = in_order(candidates, rankings)
        return ordered if return_all else [texts[0] for texts in ordered]

    def get_worst_of_n(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        pairrm_cmp_type: str = "bubble",
        return_all: bool = False,
        batch_size: int = 8,
    ) -> list[str] | list[list[str]]:
        """The worst candidate of each input; arguments and errors of :meth:`get_best_of_n`.

        Returns:
            [n] texts, or all candidates with the worst first, [n][k], with ``return_all``.
        """
        check_choice("pairrm_cmp_type", pairrm_cmp_type, _WORST)
        sources = joined(inputs, instructions)
        check_candidates(sources, candidates)
        rankings = self._rankings(sources, candidates, batch_size, strategy=_WORST[pairrm_cmp_type])
        ordered = in_order(candidates, rankings, worst_first=True)
        return ordered if return_all else [texts[0] for texts in ordered]

    def _logits(
        self,
        sources: Sequence[str],
        pairs: Sequence[Sequence[str]],
        batch_size: int,
        mode: str,
        lengths: Lengths = (None, None),
        disable_tqdm: bool = False,
    ) -> NDArray[np.float32]:
        """Logit of each pair, [n]; see :meth:`compare`."""
        check_choice("mode", mode, (_BOTH_ORDERS, _A_FIRST, _B_FIRST))
        if mode == _B_FIRST and self._is_pairwise:
            pairs = [pair[::-1] for pair in pairs]
        strategy = "full" if mode == _BOTH_ORDERS else "one_order"
        rankings = self._rankings(
            sources, pairs, batch_size, disable_tqdm, lengths, strategy=strategy
        )
        is_summed = mode == _BOTH_ORDERS
        return np.array([_logit(r, is_summed=is_summed) for r in rankings], dtype=np.float32)

    def _rankings(
        self,
        sources: Sequence[str],
        candidates: Sequence[Sequence[str]],
        batch_size: int,
        disable_tqdm: bool = False,
        lengths: Lengths = (None, None),
        *,
        strategy: str = "full",
    ) -> Rankings:
        from tqdm.auto import tqdm

        from blender_med.rankers.checkpoint import longest_row, with_lengths

        check_batch_size(batch_size)
        ranker = with_lengths(self.ranker, *lengths)
        hidden = disable_tqdm or not self.blender_config.use_tqdm
        settings = {"strategy": strategy} if self._is_pairwise else {}
        with tqdm(total=len(sources), desc="Ranking candidates", disable=hidden) as bar:
            return ranker.rank(
                sources, candidates, batch_tokens=batch_size * longest_row(ranker),
                advance=bar.update, **settings,
            )  # fmt: skip

    @property
    def _is_pairwise(self) -> bool:
        return hasattr(self.ranker, "pairwise_logits")


def _logit(ranking: RankedCandidates, *, is_summed: bool) -> float:
    """Verdict on a pair: of both orders or the first one, or the difference of two scores."""
    if ranking.pairwise_logits is None:
        return ranking.scores[0] - ranking.scores[1]
    first, second = ranking.pairwise_logits[0, 1], ranking.pairwise_logits[1, 0]
    return float(first - second if is_summed else first)
