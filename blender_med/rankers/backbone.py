"""What the trainable baselines share: a pretrained encoder, its tokenizer, loading and saving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from blender_med.errors import ConfigError
from blender_med.models import check_vocabulary, load_config, load_pretrained, load_tokenizer
from blender_med.rankers.loading import dtype_name, placed
from blender_med.rankers.pointwise import PointwiseRanker
from blender_med.rankers.weights import UNUSED_WEIGHTS, dropout_settings


class BackboneConfig(PreTrainedConfig):
    """Configuration of a ranker around an encoder.

    Attributes:
        backbone_config: Configuration of the encoder, or its dictionary.
        source_maxlength: Most tokens of the question.
        candidate_maxlength: Most tokens of a candidate.
    """

    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    source_maxlength: int = 128
    candidate_maxlength: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the backbone's configuration from its dictionary."""
        if isinstance(self.backbone_config, dict):
            values = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


class BackboneRanker(PointwiseRanker, PreTrainedModel):
    """A ranker around an encoder; it keeps the tokenizer that it was trained with.

    Args:
        config: Configuration.
        tokenizer: Needed for everything that starts from texts.
        backbone: Encoder in place of a new one with random weights.
    """

    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: BackboneConfig, tokenizer: Any = None, backbone: Any = None) -> None:
        super().__init__(config)
        self._tokenizer = tokenizer
        self.backbone = backbone or AutoModel.from_config(config.backbone_config)

    def _init_weights(self, module: Any) -> None:
        """Keep the layers' own start: deviations of 0.02 would starve a head of several layers."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: str | torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> Self:
        """Load a trained ranker, in evaluation mode.

        Args:
            path: Local folder, Hub id or package source that :meth:`save_pretrained` wrote.
            dtype: Of the weights, whatever the checkpoint stores.
            device: Where to put the model; None: the CPU.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.

        Raises:
            ConfigError: There is no such checkpoint or device, it is of another kind, or its
                tokenizer is another model's.
            DataError: Weights are missing, have another shape, or are pickled.
        """
        place = placed(device)
        config = load_config(path, revision)
        if not isinstance(config, cls.config_class):
            fix = f"train one with {cls.__name__}.from_backbone, or load it with its own class"
            problem = f"a checkpoint of type {config.model_type}, not a {cls.__name__}"
            raise ConfigError(problem, key="path", value=str(path), fix=fix)
        model = load_pretrained(
            super(), path, dtype=dtype_name(dtype), revision=revision, allow_pickle=allow_pickle
        )
        model._tokenizer = load_tokenizer(path, revision)
        check_vocabulary(model.backbone, model._tokenizer, path)
        return model.to(place)

    @classmethod
    def from_backbone(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        allow_pickle: bool = False,
        backbone_dropout: float | None = None,
        **fields: Any,
    ) -> Self:
        """A ranker to be trained: a pretrained encoder with a new head.

        Args:
            path: Local folder, Hub id or package source of the encoder.
            revision: Of a Hub id.
            allow_pickle: Read pickled weights where there are no safetensors.
            backbone_dropout: In place of the encoder's own.
            fields: Fields of the configuration.

        Raises:
            ConfigError: There is no such encoder, it has no dropout, or its tokenizer is another
                model's.
            DataError: Weights are missing or pickled.
        """
        backbone = load_pretrained(
            AutoModel, path, dtype="float32", optional=UNUSED_WEIGHTS, revision=revision,
            allow_pickle=allow_pickle, **dropout_settings(path, revision, backbone_dropout),
        )  # fmt: skip
        tokenizer = load_tokenizer(path, revision)
        check_vocabulary(backbone, tokenizer, path)
        # A copy: a new configuration resets the attention kernel of the configurations inside it.
        config = cls.config_class(backbone_config=backbone.config.to_dict(), **fields)
        return cls(config, tokenizer, backbone)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write configuration, safetensors and the tokenizer."""
        super().save_pretrained(save_directory, **kwargs)
        self.tokenizer.save_pretrained(save_directory)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients inside; back to what was before on leaving."""
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(was_training)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            ConfigError: The model was built without one.
        """
        if self._tokenizer is None:
            fix = "load it with from_pretrained or from_backbone, or pass tokenizer="
            raise ConfigError("this ranker has no tokenizer", key="tokenizer", fix=fix)
        return self._tokenizer
