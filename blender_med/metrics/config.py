"""Settings of the metrics that need a model; light, no metric is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blender_med.config import Recipe, speed_only

Dtype = Literal["float32", "bfloat16"]

# The layer of a model that agrees best with human judgement of translations (WMT16), as
# bert-score 0.3.13 tuned it.
BERTSCORE_LAYERS = {
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9,
    "roberta-base": 10,
    "roberta-large": 17,
    "roberta-large-mnli": 19,
    "distilbert-base-uncased": 5,
    "distilroberta-base": 5,
    "allenai/scibert_scivocab_uncased": 8,
    "allenai/scibert_scivocab_cased": 9,
    "facebook/bart-base": 6,
    "facebook/bart-large": 10,
    "facebook/bart-large-mnli": 11,
    "microsoft/deberta-base": 9,
    "microsoft/deberta-base-mnli": 9,
    "microsoft/deberta-large": 16,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge": 18,
    "microsoft/deberta-xlarge-mnli": 40,
    "microsoft/deberta-v3-base": 9,
    "microsoft/deberta-v3-large": 12,
    "microsoft/mpnet-base": 8,
    "xlm-roberta-base": 9,
    "xlm-roberta-large": 17,
}


class MetricModelConfig(Recipe):
    """What every metric with a model can be told.

    ``model`` is a Hub id, a local folder, or ``package:NAME`` for a model inside an installed
    Python package. ``device`` None takes CUDA where there is one. ``batch_tokens`` None fits the
    device. ``allow_pickle`` reads pickled weights where there are no safetensors.
    """

    model: str
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    dtype: Dtype = "float32"
    device: str | None = speed_only(None)
    batch_tokens: int | None = speed_only(None, ge=1)
    # Weights count by their content, so how they are stored changes no result.
    allow_pickle: bool = speed_only(False)


class BertScoreConfig(MetricModelConfig):
    """Settings of ``bertscore_p``, ``bertscore_r`` and ``bertscore_f1``.

    ``num_layers`` None takes the layer that bert-score tuned for the model. ``max_length`` None
    takes the model's own limit. ``idf`` weighs tokens by how rare they are in the references.
    """

    model: str = "roberta-large"
    num_layers: int | None = Field(None, ge=0)
    idf: bool = False
    max_length: int | None = Field(None, ge=3)

    @model_validator(mode="after")
    def _layer_is_known(self) -> BertScoreConfig:
        if self.num_layers is None and self.model not in BERTSCORE_LAYERS:
            raise ValueError("no layer is tuned for this model: set 'num_layers'")
        return self


class BartScoreConfig(MetricModelConfig):
    """Settings of ``bartscore`` and ``bartscore_reverse``.

    ``state_dict`` is a file of fine-tuned weights for ``model``, such as BARTScore's ``bart.pth``.
    """

    model: str = "facebook/bart-large-cnn"
    state_dict: str | None = None
    max_length: int = Field(1024, ge=4)


class MetricModels(Recipe):
    """Settings of each model by the name that stands in ``MetricSpec.model``."""

    bertscore: BertScoreConfig = BertScoreConfig()
    bartscore: BartScoreConfig = BartScoreConfig()
