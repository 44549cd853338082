"""Identity of an expert's weights, as stored with every candidate."""

from __future__ import annotations

from pathlib import Path

from blender_med.experts.config import ExpertConfig
from blender_med.experts.hub import commit_hash
from blender_med.experts.made import check_made
from blender_med.experts.packages import CONVERSION, gguf_sha256
from blender_med.models import local_folder
from blender_med.store.cache import cache_root
from blender_med.store.files import canonical_sha256, file_sha256, read_json, write_json

# What decides a model's output: weights, settings, tokenizer, chat template, own code.
_SUFFIXES = {
    ".safetensors",
    ".bin",
    ".pt",
    ".gguf",
    ".json",
    ".model",
    ".txt",
    ".jinja",
    ".py",
    ".tiktoken",
}


def model_revision(config: ExpertConfig) -> str:
    """Changes whenever the expert's model could answer differently; imports no torch.

    A content hash for a local folder, the hash of the GGUF for a package, the commit for a
    Hub id, address and model name for a server; the hash of a LoRA adapter is added to it.

    Raises:
        ExpertError: The model is not found.
        NotMadeError: The job that makes it has not run.
        MissingDependencyError: The weights' package is not installed.
    """
    check_made(config)
    if config.engine == "fake":
        from blender_med.experts.fake import FakeExpert

        return FakeExpert(config).revision
    parts = [base_revision(config)]
    if config.lora:
        parts.append("lora:" + weights_revision(config.lora))
    if config.tokenizer:
        parts.append("tokenizer:" + weights_revision(config.tokenizer))
    return "+".join(parts)


def base_revision(config: ExpertConfig) -> str:
    """The same without adapter and tokenizer. Raises as :func:`model_revision`."""
    if config.openai is not None:
        return f"openai:{config.openai.base_url.rstrip('/')}:{config.model}"
    if config.package is not None:
        return f"gguf:{gguf_sha256(config)}.{CONVERSION}"
    return weights_revision(str(config.model), config.revision)


def weights_revision(model: str, revision: str | None = None) -> str:
    """Identity of a model: content hash of a folder or model package, commit of a Hub id.

    Raises:
        ConfigError: A package source is misspelt, or its package holds no such model.
        ExpertError: There is neither such a folder nor such a Hub id.
        MissingDependencyError: The model's package is not installed.
    """
    folder = local_folder(model)
    if folder is not None:
        return "sha256:" + folder_sha256(folder)
    return "hub:" + model + "@" + commit_hash(model, revision)


def folder_sha256(folder: Path) -> str:
    """Hash of the files of a model folder that decide its output, by name and content.

    The hash of each file is remembered by path, size and modification time, so that a second
    call does not read gigabytes again.
    """
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in _SUFFIXES)
    memo = _Memo(cache_root() / "hashes.json")
    digest = canonical_sha256([[f.name, memo.sha256(f)] for f in files])
    memo.save()
    return digest


class _Memo:
    def __init__(self, path: Path) -> None:
        self._path = path
        known = read_json(path)
        self._known: dict[str, list[object]] = known if isinstance(known, dict) else {}
        self._new: dict[str, list[object]] = {}

    def sha256(self, file: Path) -> str:
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self._known.get(str(file.resolve()), [])
        if entry[:2] == stamp and len(entry) == 3:
            return str(entry[2])
        digest = file_sha256(file)
        self._new[str(file.resolve())] = [*stamp, digest]
        return digest

    def save(self) -> None:
        if self._new:
            latest = read_json(self._path)
            merged = {**(latest if isinstance(latest, dict) else {}), **self._new}
            write_json(self._path, merged)
