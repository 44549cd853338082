"""The part of ``Blender`` that fuses: one answer from the best candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blender_med.blender.arguments import Rows, check_batch_size, check_texts
from blender_med.blender.ranking import BlenderConfig, RankingBlender
from blender_med.errors import ConfigError


class FusingBlender(RankingBlender):
    """Ranks, compares and fuses candidate answers; see :meth:`loadranker`, :meth:`loadfuser`.

    Args:
        blender_config: Device and progress.
    """

    def __init__(self, blender_config: BlenderConfig | None = None) -> None:
        super().__init__(blender_config)
        self._fuser: Any = None

    @property
    def fuser(self) -> Any:
        """The fuser, a :class:`~blender_med.fusers.genfuser.GenFuser`.

        Raises:
            ConfigError: None is loaded.
        """
        if self._fuser is None:
            raise ConfigError("no fuser is loaded", fix="call loadfuser(path) first")
        return self._fuser

    def loadfuser(
        self,
        fuser_path: str | Path,
        device: str | None = None,
        *,
        max_length: int | None = None,
        candidate_maxlength: int | None = None,
        torch_dtype: str | None = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        """Load a fuser.

        Args:
            fuser_path: Folder, Hub id or package source of an encoder-decoder
                (``llm-blender/gen_fuser_3b``) or a decoder-only model.
            device: Where to put it; None: that of ``blender_config``.
            max_length: Most tokens of a prompt; None: what the checkpoint names, else 1024.
            candidate_maxlength: Most tokens of a candidate; None: the same, else 128.
            torch_dtype: ``bfloat16`` or ``float32``; None: ``bfloat16``, on a CPU ``float32``.
            load_in_4bit: Quantise with bitsandbytes (CUDA).
            load_in_8bit: The same.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: No such checkpoint or device, or a tokenizer that does not fit.
            DataError: Weights are missing or damaged.
        """
        from blender_med.blender.fusing_arguments import quantization
        from blender_med.fusers.genfuser import GenFuser
        from blender_med.models import torch_device

        chosen = torch_device(device or self.blender_config.device)
        self._fuser = GenFuser.from_pretrained(
            fuser_path,
            dtype=torch_dtype or ("float32" if chosen.type == "cpu" else "bfloat16"),
            device=str(chosen),
            max_length=max_length,
            candidate_maxlength=candidate_maxlength,
            revision=revision,
            allow_pickle=allow_pickle,
            **quantization(load_in_4bit, load_in_8bit),
        )

    def fuse(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        batch_size: int = 4,
        **generate_kwargs: Any,
    ) -> list[str]:
        """Write one answer from all candidates of each input.

        Args:
            inputs: Questions, [n].
            candidates: Candidates of each question, the best first, [n][k]; k may differ.
            instructions: What to do with each input, [n].
            batch_size: Prompts of a batch that are as long as they can be; more where they are
                shorter. Speed only.
            generate_kwargs: ``candidate_max_length`` (tokens of a candidate, for this call),
                ``max_new_tokens`` (by default as many as a candidate may have), ``num_beams`` (4),
                ``length_penalty``, ``repetition_penalty``, ``no_repeat_ngram_size``; with
                ``do_sample=True`` also ``temperature``, ``top_p``, ``top_k``, and ``seed``, and
                no beams. Other arguments of ``generate`` are errors.

        Returns:
            Answers, [n]; the first candidate where the fuser writes nothing.

        Raises:
            ConfigError: No fuser is loaded, or an argument is unknown.
            DataError: The arguments do not fit each other, or an input has no candidate.
        """
        from tqdm.auto import tqdm

        from blender_med.blender.fusing_arguments import decoding_of, for_one_call
        from blender_med.fusers.base import check_fusion_input

        check_batch_size(batch_size)
        check_texts("inputs", inputs)
        asked = [""] * len(inputs) if instructions is None else instructions
        check_fusion_input(asked, inputs, candidates)
        length = generate_kwargs.pop("candidate_max_length", None)
        fuser = for_one_call(self.fuser, length, batch_size)
        decoding = decoding_of(generate_kwargs, fuser.formatter.candidate_maxlength)
        hidden = not self.blender_config.use_tqdm
        with tqdm(total=len(inputs), desc="Fusing candidates", disable=hidden) as bar:
            fusions = fuser.fusions(
                asked, inputs, candidates, top_k=max(map(len, candidates), default=1),
                decoding=decoding, advance=bar.update,
            )  # fmt: skip
        return [fusion.text for fusion in fusions]

    def rank_and_fuse(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        batch_size: int = 4,
        top_k: int = 3,
        **generate_kwargs: Any,
    ) -> tuple[list[str], Rows]:
        """Rank the candidates and fuse the best ``top_k`` of each input.

        Arguments and errors of :meth:`rank` and :meth:`fuse`.

        Returns:
            The answers, [n], and the ranks of all candidates, or their scores, [n, k].
        """
        from blender_med.blender.fusing_arguments import best_candidates

        order = self.rank(inputs, candidates, instructions, return_scores, batch_size)
        best = best_candidates(candidates, order, top_k, is_score=return_scores)
        return self.fuse(inputs, best, instructions, batch_size, **generate_kwargs), order
