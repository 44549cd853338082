"""Where the command line writes, and how loud the libraries are."""

from __future__ import annotations

import logging
import os
import warnings

from rich.console import Console
from rich.logging import RichHandler

# Names and reasons of data stand in brackets at times: nothing that is printed is markup.
stdout = Console(markup=False, highlight=False)
stderr = Console(stderr=True, markup=False, highlight=False)

_NOISY = ("vllm", "transformers", "huggingface_hub", "datasets", "httpx", "absl", "filelock")


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Our own messages on stderr; libraries' noise only with ``--verbose``.

    Bars of downloads from the Hub stay on a terminal: gigabytes take minutes.
    """
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_level=False)
    own = logging.getLogger("blender_med")
    own.handlers = [handler]
    own.propagate = False
    own.setLevel(logging.WARNING if quiet else logging.INFO)
    if not verbose:
        _silence_libraries()
    if quiet or not stderr.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _silence_libraries() -> None:
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", module=r"(transformers|vllm|torch|datasets)\b.*")
