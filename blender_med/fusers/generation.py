"""The transformers engine of a fuser: batches of prompts through ``generate``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig

from blender_med.batching import token_budget_batches
from blender_med.errors import ConfigError
from blender_med.fusers.base import Advance, Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import FusionPrompt, PromptFormatter
from blender_med.fusers.sampling import RowSampling, row_seed
from blender_med.fusers.shared_keys import ATTENTION, read_source
from blender_med.packed import pack_linear_layers

BATCH_TOKENS = 8192
_MOST_SEQUENCES = 96  # prompts times beams that are decoded together
_MODEL_IDS = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class TransformersEngine:
    """``generate`` in batches of similar length, longest first.

    On a CPU the first call copies the weights of the linear layers into the layout that computes
    fastest; after a change of the weights make a new engine.

    Args:
        model: Encoder-decoder or decoder-only model, in evaluation mode.
        formatter: Of its prompts; says what ends an answer.
        batch_tokens: Most prompt tokens of a batch, padding included; speed only.
    """

    def __init__(
        self,
        model: Any,
        formatter: PromptFormatter,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.model = model
        self._tokenizer = formatter.tokenizer
        self._stop_ids = stop_ids(model.generation_config.eos_token_id, formatter)
        self._batch_tokens = batch_tokens
        self._encoder_decoder = bool(model.config.is_encoder_decoder)

    def limited(self, formatter: PromptFormatter, batch_tokens: int) -> TransformersEngine:
        """The same model, its prepared layers included, for prompts of other lengths.

        Args:
            formatter: Of the prompts; of the same tokenizer and layout.
            batch_tokens: As above.
        """
        twin = copy.copy(self)
        vars(twin)["_runner"] = self._runner
        twin._stop_ids = stop_ids(self.model.generation_config.eos_token_id, formatter)
        twin._batch_tokens = batch_tokens
        return twin

    def generate(
        self,
        prompts: Sequence[FusionPrompt],
        decoding: Decoding,
        *,
        advance: Advance | None = None,
    ) -> list[Generation]:
        """One text for each prompt, in their order; ``advance(n)`` reports n prompts done."""
        beams = decoding.beams(is_encoder_decoder=self._encoder_decoder)
        lengths = [len(prompt.ids) for prompt in prompts]
        self._check_positions(max(lengths, default=0), decoding.max_new_tokens)
        done: dict[int, Generation] = {}
        rows = max(1, _MOST_SEQUENCES // beams)
        for batch in token_budget_batches(lengths, self._batch_tokens, rows):
            texts = self._batch([prompts[i] for i in batch], decoding, beams)
            done |= zip(batch, texts, strict=True)
            if advance is not None:
                advance(len(batch))
        return [done[i] for i in range(len(prompts))]

    @cached_property
    def _runner(self) -> Any:
        """The model, on a CPU with packed linear layers; everything else is the model's own."""
        if self.model.device.type != "cpu":
            return self.model
        own = [*self.model.parameters(), *self.model.buffers()]
        twin = copy.deepcopy(self.model, {id(tensor): tensor for tensor in own})
        return pack_linear_layers(twin)

    def _batch(
        self, prompts: Sequence[FusionPrompt], decoding: Decoding, beams: int
    ) -> list[Generation]:
        ids, mask = self._padded([prompt.ids for prompt in prompts])
        processors = []
        if decoding.temperature > 0:
            seeds = [row_seed(decoding.seed, prompt.ids) for prompt in prompts]
            processors.append(RowSampling(decoding, seeds))
        with torch.inference_mode():
            output = self._runner.generate(
                attention_mask=mask,
                generation_config=self._settings(decoding, beams),
                logits_processor=processors,
                **self._source(ids, mask, decoding, beams),
            )
        skipped = 1 if self._encoder_decoder else ids.shape[1]
        return [self._generation(row) for row in output[:, skipped:].tolist()]

    def _source(
        self, ids: torch.Tensor, mask: torch.Tensor, decoding: Decoding, beams: int
    ) -> dict[str, Any]:
        if beams > 1 and self.model.config._attn_implementation == ATTENTION:
            return read_source(self._runner, ids, mask, decoding.max_new_tokens)
        return {"input_ids": ids}

    def _settings(self, decoding: Decoding, beams: int) -> GenerationConfig:
        own = self.model.generation_config
        return decoding_settings(own, decoding, beams, self._stop_ids, self._pad_id)

    def _generation(self, ids: list[int]) -> Generation:
        end = next((i + 1 for i, token in enumerate(ids) if token in self._stop_ids), None)
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=True)
        text = text if self._encoder_decoder else text.strip()
        return Generation(text, len(ids[:end]), "length" if end is None else "stop")

    def _check_positions(self, prompt: int, new: int) -> None:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        used = new if self._encoder_decoder else prompt + new
        if positions is not None and used > positions:
            problem = f"an answer would reach position {used} of {positions}"
            fix = "lower max_new_tokens or the fuser's max_length"
            raise ConfigError(problem, key="max_new_tokens", value=new, fix=fix)

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._stop_ids[0] if pad is None else pad)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and mask, [rows, longest]; a decoder-only model is padded on the left."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._pad_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if self._encoder_decoder else slice(longest - len(row), None)
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return ids.to(self.model.device), mask.to(self.model.device)


def decoding_settings(
    own: Any, decoding: Decoding, beams: int, stop_ids: int | list[int], pad_id: int
) -> GenerationConfig:
    """Every setting by name, so that none of the model's own comes in; its tokens do.

    Args:
        own: The model's generation configuration.
        decoding: How a text is written.
        beams: Number of beams.
        stop_ids: Tokens that end a text.
        pad_id: Token behind a text that has ended.
    """
    return GenerationConfig(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=decoding.max_new_tokens,
        length_penalty=decoding.length_penalty,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        early_stopping=False,
        min_length=0,
        eos_token_id=stop_ids,
        pad_token_id=pad_id,
        **{name: getattr(own, name, None) for name in _MODEL_IDS},
    )


def stop_ids(own: int | list[int] | None, formatter: PromptFormatter) -> list[int]:
    """Tokens that end a text: the model's own, its tokenizer's, and the end of a turn."""
    ends = own if isinstance(own, list) else [own]
    known = [*ends, formatter.tokenizer.eos_token_id, *formatter.closing_ids[:1]]
    return sorted({token for token in known if token is not None})
