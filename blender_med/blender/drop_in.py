"""``Blender``: the interface of ``llm_blender.Blender`` over this package's rankers and fusers.

Arguments, shapes and values are those of llm-blender 0.0.2, with these differences: wrong
arguments raise, questions may have different numbers of candidates, a pair's logit does not
depend on what else is ranked with it, a fuser's prompt keeps its closing instruction however long
the candidates are, and no argument is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blender_med.blender.arguments import check_batch_size, check_choice, joined
from blender_med.blender.fusing import FusingBlender
from blender_med.blender.ranking import COMPARISONS


class Blender(FusingBlender):
    """Ranks, compares and fuses candidate answers, and draws answers to take the best of."""

    def n_generate(
        self,
        model: Any,
        model_tokenizer: Any,
        inputs: Sequence[str],
        instructions: Sequence[str] | None = None,
        n: int = 5,
        sampling_mode: str | None = "top_p_sampling",
        batch_size: int = 4,
        **generate_kwargs: Any,
    ) -> list[list[str]]:
        """Draw n answers to each input.

        Args:
            model: A transformers model with ``generate``, or a ``vllm.LLM``.
            model_tokenizer: Its tokenizer.
            inputs: Questions, [n_inputs].
            instructions: Put before the inputs, on a line of their own, [n_inputs].
            n: Answers to each input.
            sampling_mode: ``top_p_sampling`` (top_p 1.0 and temperature 0.7 unless given),
                ``top_k_sampling`` (top_k 50 and temperature 0.7 unless given), or None: as
                ``generate_kwargs`` say.
            batch_size: Inputs of a batch; vLLM makes its own.
            generate_kwargs: For ``model.generate``, such as ``max_new_tokens``; for vLLM those
                that its SamplingParams knows.

        Returns:
            [n_inputs][n] texts without the prompt.

        Raises:
            ConfigError: Unknown ``sampling_mode``, or an argument that vLLM does not know.
            DataError: There are not as many instructions as inputs.
        """
        from blender_med.blender.sampling import sample_answers

        check_batch_size(batch_size)
        prompts = joined(inputs, instructions, separator="\n")
        return sample_answers(
            model, model_tokenizer, prompts, n, sampling_mode, generate_kwargs,
            batch_size=batch_size, show_progress=self.blender_config.use_tqdm,
        )  # fmt: skip

    def best_of_n_generate(
        self,
        model: Any,
        model_tokenizer: Any,
        inputs: Sequence[str],
        instructions: Sequence[str] | None = None,
        n: int = 5,
        sampling_mode: str | None = "top_p_sampling",
        batch_size: int = 4,
        pairrm_cmp_type: str = "bubble",
        return_all: bool = False,
        **generate_kwargs: Any,
    ) -> list[str] | list[list[str]]:
        """Draw n answers to each input and return the best of them.

        Arguments and errors of :meth:`n_generate` and :meth:`get_best_of_n`.
        """
        check_choice("pairrm_cmp_type", pairrm_cmp_type, COMPARISONS)
        sampled = self.n_generate(
            model, model_tokenizer, inputs, instructions, n, sampling_mode, batch_size,
            **generate_kwargs,
        )  # fmt: skip
        return self.get_best_of_n(
            inputs, sampled, instructions, pairrm_cmp_type, return_all, min(batch_size, 32)
        )
