"""The job that merges experts, on the mergekit library."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from blender_med.config import result_fields
from blender_med.errors import ExpertError, MissingDependencyError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.local import fetch_weights, load_tokenizer
from blender_med.experts.revision import model_revision
from blender_med.models import check_pickle
from blender_med.training.card import CardText, write_made_card
from blender_med.training.expert_config import MergeJob
from blender_med.training.job import Advance, Task, clear_folder
from blender_med.training.merge_config import check_alike, mergekit_config

_SOURCES = {
    "linear": "model soups (Wortsman et al. 2022)",
    "slerp": "spherical interpolation (Shoemake 1985)",
    "ties": "TIES (Yadav et al. 2023)",
    "dare_ties": "DARE (Yu et al. 2023) with the signs of TIES",
    "moe": "mergekit-moe",
}


class MergeTask(Task):
    """Merges experts.

    Args:
        job: The recipe.
        experts: Those that it names, by name.
    """

    kind = "merge"

    def __init__(self, job: MergeJob, experts: Mapping[str, ExpertConfig]) -> None:
        super().__init__(job.name)
        self._job, self._experts = job, experts

    def identity(self) -> dict[str, Any]:
        """Settings and weights."""
        weights = {name: model_revision(expert) for name, expert in self._experts.items()}
        return {"job": result_fields(self._job), "experts": weights}

    def inputs(self) -> dict[str, str]:
        """Nothing: a merge reads no data."""
        return {}

    def counts(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def steps(self) -> int:
        """One."""
        return 1

    def make(self, folder: Path, advance: Advance) -> None:
        """Write the merge with the tokenizer of the base.

        Raises:
            ConfigError: The experts are not alike.
            DataError: Weights are pickled, and the expert's recipe does not allow that.
            ExpertError: mergekit cannot merge them.
            MissingDependencyError: mergekit is not installed.
        """
        job = self._job
        check_installed()
        for expert in self._experts.values():
            if expert.package is not None:
                fetch_weights(expert)  # its configuration is made by the conversion
        check_alike(job, self._experts)
        folders = {name: Path(fetch_weights(expert)) for name, expert in self._experts.items()}
        for name, own in folders.items():
            check_pickle(own, allow_pickle=self._experts[name].allow_pickle)
        clear_folder(folder)
        tree = mergekit_config(job, folders)
        with _explained(job):
            _merge(tree, folder, job.seed)
        load_tokenizer(self._experts[job.base]).save_pretrained(folder)
        _copy_generation_config(folders[job.base], folder)
        write_made_card(folder / "README.md", job, self._card_text(tree), {})
        advance(1)

    def _card_text(self, tree: Mapping[str, Any]) -> CardText:
        job = self._job
        names = ", ".join(model.expert for model in job.models)
        return CardText(
            tags=("expert", "merge", job.method),
            backbone=job.base,
            summary=f"A merge of {names} by {_SOURCES[job.method]}, base {job.base}.",
            usage=yaml.safe_dump(dict(tree), sort_keys=False).rstrip(),
            material="",
            limits="A merge answers worse or better than what it was made of; measure it.",
        )


def check_installed() -> None:
    """Check that mergekit can be imported.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import mergekit.merge  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        fix = "pip install 'blender-med[experts]'"
        raise MissingDependencyError("mergekit is not installed", key="job", fix=fix) from error


def _merge(tree: dict[str, Any], folder: Path, seed: int) -> None:
    from mergekit.io.tasks import LoaderCache  # type: ignore[import-untyped]
    from mergekit.options import MergeOptions  # type: ignore[import-untyped]

    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=seed, device="cpu"
    )
    if "experts" in tree:
        from mergekit.moe.config import MoEMergeConfig  # type: ignore[import-untyped]
        from mergekit.scripts.moe import build  # type: ignore[import-untyped]
        from transformers import set_seed

        from blender_med.training.mixture import rename_mixture

        set_seed(seed)  # mergekit-moe leaves that to its command line
        config = MoEMergeConfig.model_validate(tree)
        build(config, str(folder), options, device="cpu")
        rename_mixture(folder)
    else:
        from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
        from mergekit.merge import run_merge

        run_merge(MergeConfiguration.model_validate(tree), str(folder), options)
    LoaderCache().flush_all()


@contextmanager
def _explained(job: MergeJob) -> Iterator[None]:
    """Mergekit quietened, and its errors as ours; where it gives up it ends the process.

    Raises:
        ExpertError: It fails.
    """
    level = logging.root.level
    try:
        with _last_error() as said:
            yield
    except (SystemExit, RuntimeError, ValueError, KeyError, NotImplementedError) as error:
        reason = said[-1] if said else str(error)
        fix = "change the method or the experts as it says"
        problem = f"mergekit cannot merge: {reason}"
        raise ExpertError(problem, key="method", value=job.method, fix=fix) from error
    finally:
        logging.root.setLevel(level)


@contextmanager
def _last_error() -> Iterator[list[str]]:
    """Errors that mergekit writes into the log before it ends the process."""
    said: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    keeper = Keeper(logging.ERROR)
    logging.root.addHandler(keeper)
    try:
        yield said
    finally:
        logging.root.removeHandler(keeper)


def _copy_generation_config(source: Path, folder: Path) -> None:
    """Which tokens end a text stands there."""
    file = source / "generation_config.json"
    if file.is_file():
        (folder / file.name).write_bytes(file.read_bytes())
