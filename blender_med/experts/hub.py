"""Models of the Hugging Face Hub: where a download lies, and which commit a name stands for."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from blender_med.errors import ExpertError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class UnknownCommitError(ExpertError):
    """A Hub model is not on this machine, and the Hub does not say which commit it is at."""


def is_local(model: str) -> bool:
    """Whether ``model`` is a folder on this machine rather than a Hub id."""
    return Path(model).expanduser().is_dir()


def commit_hash(model: str, revision: str | None) -> str:
    """Commit that ``revision`` (a branch, a tag or a commit; None: ``main``) stands for.

    A download that is already here decides, so that the same run gives the same answers on a
    machine without a network; only a model that is not here is looked up.

    Raises:
        UnknownCommitError: The commit is neither in the local cache nor to be had from the Hub.
        ExpertError: This is no Hub id, or the Hub names no commit.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    reference = _repository(model) / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    return _looked_up(model, revision)


def _looked_up(model: str, revision: str | None) -> str:
    if not _HUB_ID.fullmatch(model):
        fix = "give an existing folder or a Hub id such as 'BioMistral/BioMistral-7B'"
        raise ExpertError("no such model folder", key="model", value=model, fix=fix)
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    fix = (
        "check the network and the id, log in if the model is gated,"
        " or set 'revision' to its commit hash"
    )
    try:
        commit = HfApi().model_info(model, revision=revision, timeout=20).sha
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = type(error).__name__
        problem = f"the commit of the Hub model is not known here ({reason})"
        raise UnknownCommitError(problem, key="model", value=model, fix=fix) from error
    if commit is None:
        raise ExpertError("the Hub names no commit", key="model", value=model, fix=fix)
    return commit


def cached_file(model: str, revision: str | None, name: str) -> Path | None:
    """A file of a downloaded Hub model, or None where it is not on this machine."""
    repository = _repository(model)
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    file = repository / "snapshots" / (commit or "main") / name
    return file if file.is_file() else None


@lru_cache
def hub_config(model: str, revision: str | None) -> Path | None:
    """``config.json`` of a Hub model, fetched where it is not here yet; None without a network."""
    here = cached_file(model, revision, "config.json")
    if here is not None or not _HUB_ID.fullmatch(model):
        return here
    from httpx import HTTPError
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json", revision=revision))
    except (HTTPError, LocalEntryNotFoundError, OSError):
        return None


def _repository(model: str) -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    return Path(cache) / ("models--" + model.replace("/", "--"))


def download(model: str, commit: str | None) -> str:
    """Folder of a Hub model at a commit, downloaded where it is not here yet.

    Raises:
        ExpertError: The Hub does not give it.
    """
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(snapshot_download(model, revision=commit))
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        fix = "check the network, and log in if the model is gated"
        problem = f"the model cannot be downloaded ({type(error).__name__})"
        raise ExpertError(problem, key="model", value=model, fix=fix) from error
