"""The job that quantises an expert, on the llm-compressor library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blender_med.config import result_fields
from blender_med.data.loading import load_dataset_config
from blender_med.data.tuning import HeldOut, TuningExample, TuningExamples, tuning_examples
from blender_med.errors import ConfigError, DataError, ExpertError, MissingDependencyError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.local import load_tokenizer
from blender_med.experts.made import made_expert
from blender_med.experts.rendering import Renderer
from blender_med.experts.revision import model_revision
from blender_med.records import Question
from blender_med.store.files import canonical_sha256
from blender_med.training.card import CardText, write_made_card
from blender_med.training.expert_config import QuantiseJob, TuningSource
from blender_med.training.job import Advance, Task, clear_folder

_USAGE = """\
expert = load_expert(load_expert_config("path/to/the/recipe/of/{name}.yaml"))"""
_MATERIAL = """\
Measured on this machine by the engine that serves the expert: size of the weights' files, peak
memory of the engine's process (with what it reserves for prompts), generated tokens per second,
mean log-probability of the first 96 words of a reference in nats, and means of the text
metrics."""
_LIMITS = "Fewer bits cost accuracy, more in small models than in large ones. No medical advice."


class QuantiseTask(Task):
    """Quantises an expert.

    Args:
        job: The recipe.
        base: The expert that it names.
        source: Data set of the calibration text.
        asked: Questions that are not looked at.
    """

    kind = "quantise"

    def __init__(
        self,
        job: QuantiseJob,
        base: ExpertConfig,
        source: TuningSource,
        asked: Sequence[Question] = (),
    ) -> None:
        super().__init__(job.name)
        self._job, self._base, self._source, self._asked = job, base, source, asked

    def identity(self) -> dict[str, Any]:
        """Settings and weights."""
        return {"job": result_fields(self._job), "base": model_revision(self._base)}

    def inputs(self) -> dict[str, str]:
        """Hash of the calibration text."""
        texts = [example.plain() for example in self._calibration]
        return {"calibration": canonical_sha256(texts)}

    def counts(self) -> dict[str, int]:
        """Number of questions of the calibration and of the measurement."""
        return {"calibration": len(self._calibration), "measured": len(self._measured)}

    def steps(self) -> int:
        """Two: quantised, measured."""
        return 2

    def make(self, folder: Path, advance: Advance) -> None:
        """Write the quantised expert and its card.

        Raises:
            ConfigError: The scheme needs a GPU, and there is none.
            DataError: There is no calibration text.
            ExpertError: llm-compressor cannot quantise this model.
            MissingDependencyError: llm-compressor is not installed.
        """
        check_installed()
        _check_device(self._job)
        clear_folder(folder)
        _quantise(self._job, self._base, self._texts(), folder)
        load_tokenizer(self._base).save_pretrained(folder)
        advance(1)
        write_made_card(folder / "README.md", self._job, self._card_text(), self._figures(folder))
        advance(1)

    @cached_property
    def _examples(self) -> TuningExamples:
        source = self._source
        found = tuning_examples(
            load_dataset_config(source),
            weight=source.weight,
            held_out=HeldOut(self._asked),
            seed=self._job.seed,
        )
        if not found.train:
            fix = "name a data set with questions that have answers"
            key = "calibration.source"
            raise DataError("there is no calibration text", file=source.path, key=key,
                            value=source.type, fix=fix)  # fmt: skip
        return found

    @property
    def _calibration(self) -> list[TuningExample]:
        return self._examples.train[: self._job.calibration.samples]

    @property
    def _measured(self) -> list[TuningExample]:
        return self._examples.dev[: self._job.measured_questions]

    def _texts(self) -> list[list[int]]:
        """Tokens of prompts with their answers, as the expert reads them."""
        longest = self._job.calibration.max_length
        renderer = Renderer(self._base, load_tokenizer(self._base))
        texts = []
        for example in self._calibration:
            prompt = renderer.render(example.question, 1)
            ids = renderer.encode(prompt) + renderer.encode_target(example.question, prompt)
            texts.append(ids[:longest])
        return texts

    def _figures(self, folder: Path) -> dict[str, dict[str, float]]:
        from blender_med.training.engine_figures import engine_figures

        if not self._measured:
            return {}
        made = made_expert(self._job, self._base, folder, save="merged")
        return {
            name: engine_figures(expert, self._measured)
            for name, expert in ((self._base.name, self._base), (self._job.name, made))
        }

    def _card_text(self) -> CardText:
        job = self._job
        return CardText(
            tags=("expert", "quantised", job.scheme.lower()),
            backbone=self._base.model or str(self._base.package),
            summary=f"{self._base.name}, quantised with llm-compressor ({job.scheme}).",
            usage=_USAGE.format(name=job.name),
            material=_MATERIAL,
            limits=_LIMITS,
        )


def check_installed() -> None:
    """Check that llm-compressor can be imported.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import llmcompressor  # noqa: F401
    except ImportError as error:
        fix = "pip install --no-deps llmcompressor, as setup.sh does"
        problem = "llmcompressor is not installed"
        raise MissingDependencyError(problem, key="job", fix=fix) from error


def _check_device(job: QuantiseJob) -> None:
    """Check that this machine can do what the scheme asks.

    Raises:
        ConfigError: llm-compressor searches the scales of AWQ on a GPU only.
    """
    import torch

    if job.scheme == "AWQ" and not torch.cuda.is_available():
        fix = "set scheme: GPTQ, which is of the same size, or quantise on a machine with a GPU"
        problem = "AWQ needs CUDA, and this machine has none"
        raise ConfigError(problem, key="scheme", value=job.scheme, fix=fix)


def modifiers(job: QuantiseJob) -> list[Any]:
    """What llm-compressor does, in order; the output layer stays as it is.

    W8A8: SmoothQuant (Xiao et al. 2023) and GPTQ (Frantar et al. 2023). AWQ: Lin et al. 2024.
    """
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    ignore = ["lm_head"]
    if job.scheme == "W8A8":
        smooth = SmoothQuantModifier(smoothing_strength=0.8)
        return [smooth, GPTQModifier(targets="Linear", scheme="W8A8", ignore=ignore)]
    groups = four_bit_groups(job)
    if job.scheme == "GPTQ":
        return [GPTQModifier(config_groups=groups, ignore=ignore)]
    return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=ignore)]


def four_bit_groups(job: QuantiseJob) -> dict[str, Any]:
    """Weights of every linear layer in 4 bits; AWQ with a zero point, GPTQ without."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": job.scheme == "GPTQ",
        "strategy": "group",
        "group_size": job.group_size,
    }
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def _quantise(
    job: QuantiseJob, base: ExpertConfig, texts: Sequence[list[int]], folder: Path
) -> None:
    from datasets import Dataset  # type: ignore[import-untyped]
    from llmcompressor.entrypoints.oneshot import oneshot
    from loguru import logger

    from blender_med.models import quiet
    from blender_med.training.finetune_model import load_base

    logger.disable("llmcompressor")
    model = load_base(base, "bfloat16")
    columns = {"input_ids": list(texts), "attention_mask": [[1] * len(ids) for ids in texts]}
    try:
        with quiet():
            oneshot(
                model=model,
                dataset=Dataset.from_dict(columns),
                recipe=modifiers(job),
                max_seq_length=job.calibration.max_length,
                num_calibration_samples=len(texts),
                shuffle_calibration_samples=False,
            )
            model.save_pretrained(folder, save_compressed=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        fix = "set group_size to a divisor of the layers' width, or choose another scheme"
        problem = f"llm-compressor cannot quantise '{base.name}': {error}"
        raise ExpertError(problem, key="scheme", value=job.scheme, fix=fix) from error
