"""Recipe of stage prepare."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from blender_med.config import Recipe, speed_only

Fraction = Annotated[float, Field(gt=0, le=1)]
Fractions = dict[str, Fraction]


class PrepareConfig(Recipe):
    """Load the questions and give each a split.

    ``splits: auto`` keeps official splits; a missing dev split is carved out by document.
    A mapping such as ``{dev: 0.3, test: 0.7}`` splits anew by document, with the run's seed.
    A mapping such as ``{medquad: {dev: 0.3, test: 0.7}}`` does so for the data sets of these
    types and leaves the others to ``auto``.
    """

    type: Literal["prepare"] = "prepare"
    splits: Literal["auto"] | Fractions | dict[str, Fractions] = "auto"
    shard_size: int = speed_only(2000, ge=1)

    @field_validator("splits")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for fractions in value.values() if _is_nested(value) else [value]:
                _check_fractions(fractions)
        return value

    def fractions(self, dataset_type: str) -> Fractions | None:
        """Shares of the splits for data sets of a type; None: official splits, as ``auto``."""
        splits: Any = None if self.splits == "auto" else self.splits
        return splits.get(dataset_type) if _is_nested(splits) else splits

    @property
    def split_types(self) -> tuple[str, ...]:
        """Types of data sets that ``splits`` names."""
        return tuple(self.splits) if _is_nested(self.splits) else ()


def _is_nested(splits: Any) -> bool:
    inner = splits.values() if isinstance(splits, dict) else ()
    return bool(inner) and all(isinstance(own, dict) for own in inner)


def _check_fractions(fractions: Fractions) -> None:
    if not set(fractions) <= {"train", "dev", "test"}:
        raise ValueError("the keys of 'splits' are train, dev and test")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError("the fractions of 'splits' must sum to 1")
