"""Identity of an expert's weights, as stored with every candidate."""

from __future__ import annotations

from pathlib import Path

from blender_med.experts.config import ExpertConfig
from blender_med.experts.hub import commit_hash, is_local
from blender_med.experts.packages import CONVERSION, gguf_sha256
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
        MissingDependencyError: The weights' package is not installed.
    """
    if config.engine == "fake":
        from blender_med.experts.fake import FakeExpert

        return FakeExpert(config).revision
    parts = [_base_revision(config)]
    if config.lora:
        parts.append("lora:" + _identity(config.lora, None))
    if config.tokenizer:
        parts.append("tokenizer:" + _identity(config.tokenizer, None))
    return "+".join(parts)


def _base_revision(config: ExpertConfig) -> str:
    if config.openai is not None:
        return f"openai:{config.openai.base_url.rstrip('/')}:{config.model}"
    if config.package is not None:
        return f"gguf:{gguf_sha256(config)}.{CONVERSION}"
    return _identity(str(config.model), config.revision)


def _identity(model: str, revision: str | None) -> str:
    if is_local(model):
        return "sha256:" + folder_sha256(Path(model).expanduser())
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
