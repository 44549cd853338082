"""Recipes of fusers: what is trained, and how an answer is written. Light: no model is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blender_med.config import Recipe, speed_only


class Decoding(Recipe):
    """Beam search, greedy or sampled decoding of a fused answer.

    ``temperature`` 0 takes the most likely text: beam search with ``num_beams``, greedy with 1.
    Above 0 every answer is sampled with a generator of its own, which ``seed`` and the prompt
    start: the same prompt gives the same answer, whatever else is in its batch.
    """

    num_beams: int | None = Field(
        None, ge=1, description="None: 4 for an encoder-decoder (LLM-Blender's), else 1"
    )
    max_new_tokens: int = Field(128, ge=1)
    length_penalty: float = 1.0
    repetition_penalty: float = Field(1.0, gt=0.0)
    no_repeat_ngram_size: int = Field(0, ge=0)
    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    sample_top_k: int = Field(0, ge=0, description="0 samples from the whole vocabulary")
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> Decoding:
        if self.temperature > 0 and (self.num_beams or 1) > 1:
            raise ValueError("sampling has one beam: leave num_beams out, or set temperature to 0")
        return self

    def beams(self, *, is_encoder_decoder: bool) -> int:
        """Number of beams for a model of this family."""
        if self.temperature > 0:
            return 1
        return self.num_beams or (4 if is_encoder_decoder else 1)


class TrainableGenFuser(Recipe):
    """A GenFuser to be trained.

    ``backbone`` is a local folder, a Hub id, ``package:NAME``, or ``expert:NAME`` for the model of
    a recipe in ``experts/``; its configuration says whether it is an encoder-decoder or
    decoder-only. ``revision`` fixes a Hub id. Lengths are tokens: of a prompt, of a candidate in
    it, and of the answer to learn; what is longer is cut. ``allow_pickle`` reads a backbone that
    comes without safetensors.
    """

    type: Literal["genfuser"] = "genfuser"
    backbone: str
    revision: str | None = None
    max_length: int = Field(1024, ge=16)
    candidate_maxlength: int = Field(128, ge=1)
    target_maxlength: int = Field(128, ge=2)
    allow_pickle: bool = speed_only(False)


FuserToTrain = TrainableGenFuser
