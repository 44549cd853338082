"""What a PairRanker is: its backbone, the lengths of its rows, and how it is trained."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from blender_med.errors import ConfigError
from blender_med.rankers.losses import PAIR_LOSSES, SAMPLING_MODES
from blender_med.registry import suggestion

# Source and candidate lengths of PairRM, and of the paper's MixInstruct rankers.
PAIRRM_LENGTHS = (1224, 412)
MIXINSTRUCT_LENGTHS = (128, 128)

# These number positions from the padding index on.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"})


class PairRankerConfig(PreTrainedConfig):
    """Configuration of a PairRanker.

    Attributes:
        backbone_config: Configuration of the encoder (or encoder-decoder), or its dictionary.
        n_tasks: Metrics that the head predicts; the logit is the mean over them.
        drop_out: Dropout of the head, in training.
        source_maxlength: Most tokens of the question.
        candidate_maxlength: Tokens of each candidate, plus half of what the question leaves.
        source_prefix_id, cand_prefix_id, cand1_prefix_id, cand2_prefix_id: Ids of the four
            special tokens.
        loss_type: One of ``losses.PAIR_LOSSES``.
        sub_sampling_mode, num_pos, num_neg, sub_sampling_ratio: Which pairs of a question are
            trained on; see ``losses.sample_pairs``.
        swap_consistency: Weight of the loss that asks both orders of a pair to agree.

    Raises:
        ConfigError: Loss or sampling mode are unknown, or a number is out of its range.
    """

    model_type = "pairranker"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    n_tasks: int = 1
    drop_out: float = 0.05
    source_maxlength: int = PAIRRM_LENGTHS[0]
    candidate_maxlength: int = PAIRRM_LENGTHS[1]
    source_prefix_id: int | None = None
    cand_prefix_id: int | None = None
    cand1_prefix_id: int | None = None
    cand2_prefix_id: int | None = None
    loss_type: str = "instructgpt"
    sub_sampling_mode: str = "all_pair"
    num_pos: int = 5
    num_neg: int = 5
    sub_sampling_ratio: float = 0.4
    swap_consistency: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the backbone's configuration from its dictionary, and check the rest."""
        if isinstance(self.backbone_config, dict):
            values = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)
        _check_name("loss_type", self.loss_type, PAIR_LOSSES)
        _check_name("sub_sampling_mode", self.sub_sampling_mode, SAMPLING_MODES)
        for key in ("n_tasks", "source_maxlength", "candidate_maxlength", "num_pos", "num_neg"):
            _check_range(key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        ratio = self.sub_sampling_ratio
        _check_range("sub_sampling_ratio", ratio, 0 < ratio <= 1, "above 0 and at most 1")


def _check_name(key: str, name: str, known: Any) -> None:
    if name not in known:
        raise ConfigError("no such choice", key=key, value=name, fix=suggestion(name, known))


def _check_range(key: str, value: float, is_in_range: bool, valid: str) -> None:
    if not is_in_range:
        raise ConfigError("out of range", key=key, value=value, fix=f"give a value {valid}")


def most_positions(backbone: Any) -> int | None:
    """Tokens that a row of this backbone can have; None where positions are relative."""
    limit = getattr(backbone, "max_position_embeddings", None)
    is_relative = getattr(backbone, "position_biased_input", True) is False
    if limit is None or is_relative or backbone.model_type == "modernbert":
        return None
    offset = backbone.pad_token_id + 1 if backbone.model_type in _OFFSET_POSITIONS else 0
    return int(limit) - offset


def default_lengths(backbone: Any) -> tuple[int, int]:
    """Source and candidate lengths for a new ranker: PairRM's where they fit, else MixInstruct's.

    Args:
        backbone: Its configuration.
    """
    limit = most_positions(backbone)
    source, candidate = PAIRRM_LENGTHS
    fits = limit is None or source + 2 * candidate <= limit
    return PAIRRM_LENGTHS if fits else MIXINSTRUCT_LENGTHS


def check_lengths(config: PairRankerConfig) -> None:
    """Check that the longest source leaves the candidates half of the backbone's positions.

    Longer rows are possible; :class:`blender_med.rankers.collate.PairEncoder` cuts their
    candidates. An encoder-decoder reads the source in a row of its own.

    Raises:
        ConfigError: It does not.
    """
    limit = most_positions(config.backbone_config)
    if limit is None:
        return
    most = limit if config.backbone_config.is_encoder_decoder else limit // 2
    if config.source_maxlength > most:
        problem = f"the backbone reads {limit} tokens, too few for such a source with candidates"
        fix = f"set source_maxlength to at most {most}"
        value = config.source_maxlength
        raise ConfigError(problem, key="source_maxlength", value=value, fix=fix)
