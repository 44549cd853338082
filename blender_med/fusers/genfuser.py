"""GenFuser: writes one answer from the best candidates of a question.

Jiang, Ren and Lin 2023 (LLM-Blender), section 4. One interface for two families of models:
encoder-decoder (Flan-T5, any T5 or BART) with the prompt of the paper, and decoder-only with the
chat template of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blender_med.config import parse
from blender_med.errors import ConfigError
from blender_med.fusers.base import Advance, Fusion, FusionEngine, Generation, check_fusion_input
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import FusionPrompt, PromptFormatter

TOP_K = 3


class GenFuser:
    """A text fuser.

    Args:
        formatter: Makes the prompts.
        engine: Runs the model: ``generation.TransformersEngine``, or one of the caller's own.
    """

    def __init__(self, formatter: PromptFormatter, engine: FusionEngine) -> None:
        self.formatter = formatter
        self.engine = engine

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: str = "float32",
        device: str | None = None,
        max_length: int | None = None,
        candidate_maxlength: int | None = None,
        batch_tokens: int | None = None,
        revision: str | None = None,
        **settings: Any,
    ) -> GenFuser:
        """Load a fuser; its configuration says of which family it is.

        Args:
            path: Local folder, Hub id (``llm-blender/gen_fuser_3b``) or ``package:NAME``.
            dtype: ``float32`` or ``bfloat16``, for weights and computation.
            device: None takes CUDA where there is one.
            max_length: Most tokens of a prompt; None: the checkpoint's own, else 1024.
            candidate_maxlength: Most tokens of a candidate; None: the checkpoint's own, else 128.
            batch_tokens: Most prompt tokens of a batch; speed only.
            revision: Of a Hub id.
            settings: Passed to the model's ``from_pretrained`` (``quantization_config``, ...).

        Raises:
            ConfigError: No such model, one that writes no text, a tokenizer that does not fit,
                or lengths that the model cannot read.
            DataError: Weights are missing or damaged, or there is no tokenizer.
        """
        from blender_med.fusers.generation import BATCH_TOKENS, TransformersEngine
        from blender_med.fusers.loading import formatter_of, load_model

        model, tokenizer = load_model(
            path, dtype=dtype, device=device, revision=revision, settings=settings
        )
        lengths = {"max_length": max_length, "candidate_maxlength": candidate_maxlength}
        formatter = formatter_of(model.config, tokenizer, lengths)
        engine = TransformersEngine(model, formatter, batch_tokens or BATCH_TOKENS)
        return cls(formatter, engine)

    def fuse(
        self,
        instructions: Sequence[str],
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        top_k: int = TOP_K,
        advance: Advance | None = None,
        **decoding: Any,
    ) -> list[str]:
        """One answer for each question; :meth:`fusions` also says how it came about.

        Args:
            instructions: What to do with each input; may be empty texts, [n].
            inputs: Questions, [n].
            candidates: Candidates of each question, the best first; any number from 1.
            top_k: How many of them are fused; all where there are fewer.
            advance: Called with the number of questions done.
            decoding: Fields of :class:`~blender_med.fusers.config.Decoding`, such as
                ``num_beams=4``, ``max_new_tokens=128``, ``temperature=0.7``.

        Raises:
            DataError: A question has no candidate, or a text is no string.
            ConfigError: An unknown decoding field, ``top_k`` below 1, or prompts that no
                candidate fits into.
        """
        chosen = parse(Decoding, decoding)
        fusions = self.fusions(
            instructions, inputs, candidates, top_k=top_k, decoding=chosen, advance=advance
        )
        return [fusion.text for fusion in fusions]

    def fusions(
        self,
        instructions: Sequence[str],
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        top_k: int = TOP_K,
        decoding: Decoding | None = None,
        advance: Advance | None = None,
    ) -> list[Fusion]:
        """A record for each question, in order; arguments and errors as :meth:`fuse`."""
        check_fusion_input(instructions, inputs, candidates)
        if top_k < 1:
            fix = "fuse at least one candidate"
            raise ConfigError("no candidate to fuse", key="top_k", value=top_k, fix=fix)
        shown = [list(group[:top_k]) for group in candidates]
        asked = [i for i, group in enumerate(shown) if _first_text(group)]
        prompts = [self.formatter.encode(instructions[i], inputs[i], shown[i]) for i in asked]
        texts = self.engine.generate(prompts, decoding or Decoding(), advance=advance)
        fusions = [Fusion("", "no_candidate_text", len(group)) for group in shown]
        for i, prompt, text in zip(asked, prompts, texts, strict=True):
            fusions[i] = _fusion(shown[i], prompt, text)
        if advance is not None and len(asked) < len(shown):
            advance(len(shown) - len(asked))
        return fusions

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, tokenizer and the lengths of the prompts.

        Raises:
            ConfigError: The engine is not transformers and holds no weights to save.
        """
        model = self._model()
        model.save_pretrained(folder)
        self.formatter.tokenizer.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, **settings: Any) -> None:
        """Upload what :meth:`save_pretrained` writes.

        Args:
            repo_id: ``user/name``.
            settings: Passed to ``push_to_hub`` of transformers: ``private``, ``token``, ...

        Raises:
            ConfigError: As :meth:`save_pretrained`.
        """
        self._model().push_to_hub(repo_id, **settings)
        self.formatter.tokenizer.push_to_hub(repo_id, **settings)

    def _model(self) -> Any:
        """The model, with the lengths of the prompts in its configuration.

        And with every token that ends its texts, for engines that know of no formatter.
        """
        from blender_med.fusers.generation import stop_ids
        from blender_med.fusers.loading import CONFIG_KEY

        model = getattr(self.engine, "model", None)
        if model is None:
            fix = "save the fuser that from_pretrained loaded"
            value = type(self.engine).__name__
            raise ConfigError("this engine has no weights", key="engine", value=value, fix=fix)
        lengths = {
            "max_length": self.formatter.max_length,
            "candidate_maxlength": self.formatter.candidate_maxlength,
        }
        setattr(model.config, CONFIG_KEY, lengths)
        model.generation_config.eos_token_id = stop_ids(
            model.generation_config.eos_token_id, self.formatter
        )
        return model


def _first_text(candidates: Sequence[str]) -> str:
    """The first candidate that is not blank; an empty text where all are."""
    return next((text for text in candidates if text.strip()), "")


def _fusion(candidates: Sequence[str], prompt: FusionPrompt, generation: Generation) -> Fusion:
    empty = not generation.text.strip()
    return Fusion(
        text=_first_text(candidates) if empty else generation.text,
        outcome="empty_generation" if empty else "fused",
        candidates=prompt.candidates,
        prompt_tokens=len(prompt.ids),
        truncated_tokens=prompt.truncated_tokens,
        completion_tokens=generation.completion_tokens,
        finish_reason=generation.finish_reason,
        seconds=generation.seconds,
    )
