"""Recipe of a data set and the registry of its types."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from blender_med.config import InvalidValueError, Recipe, speed_only
from blender_med.data.continuation import Continuation
from blender_med.registry import Registry, suggestion

DATASETS = Registry(
    "data set type",
    {
        "jsonl": "blender_med.data.tabular:JsonLines",
        "csv": "blender_med.data.tabular:Csv",
        "parquet": "blender_med.data.tabular:Parquet",
        "liveqa_med": "blender_med.data.liveqa_med:LiveQAMed",
        "medical_meadow": "blender_med.data.medical_meadow:MedicalMeadow",
        "medmcqa": "blender_med.data.medmcqa:MedMCQA",
        "medqa": "blender_med.data.medqa:MedQA",
        "medquad": "blender_med.data.medquad:MedQuAD",
        "mixinstruct": "blender_med.data.mixinstruct:MixInstruct",
        "pubmedqa": "blender_med.data.pubmedqa:PubMedQA",
        "sample": "blender_med.data.sample:Sample",
        "pmc_oa": "blender_med.data.pmc_oa:PmcOpenAccess",
        "pubmed_abstracts": "blender_med.data.pubmed_abstracts:PubMedAbstracts",
    },
)


class DatasetConfig(Recipe):
    """Which questions to load. ``path`` is a local file, folder or zip, or a Hub id.

    ``columns`` maps fields of Question to column names (generic types only). ``options`` are
    settings of one type, such as the licence filter of ``pmc_oa``. ``where`` keeps the rows whose
    ``meta`` has one of the values: ``{source: [GHR, GARD]}``. ``documents`` keeps that share of
    the documents (``meta["group"]``), drawn by the hash of their names; ``limit`` so many rows.
    With ``continuation`` a set of passages is read as questions: how does the text go on?
    """

    type: str
    path: str | None = None
    split: str | None = None
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    documents: float = Field(1.0, gt=0, le=1)
    limit: int | None = Field(None, ge=1)
    strict: bool = False
    columns: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    continuation: Continuation | None = None
    description: str = speed_only("")
    license: str = speed_only("")
    source: str = speed_only("")
    citation: str = speed_only("")

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if value not in DATASETS:
            raise InvalidValueError("unknown data set type", fix=suggestion(value, DATASETS))
        return value

    @field_validator("path")
    @classmethod
    def _without_tilde(cls, value: str | None) -> str | None:
        # A shell leaves the tilde in `--set dataset.path=~/data` alone.
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    @property
    def is_local(self) -> bool:
        """Whether ``path`` exists on this machine (else it is taken for a Hub id)."""
        return self.path is not None and Path(self.path).exists()
