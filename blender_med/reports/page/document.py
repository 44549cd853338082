"""The page: template, styles, script and data in one file, or with pages of data beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shutil import rmtree
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from blender_med.reports.page.questions import Packed
from blender_med.reports.page.sections import Figure
from blender_med.reports.page.verdict import Verdict
from blender_med.store.files import write_text

MOST_INLINE = 5_000_000  # bytes of a page with its questions inside
PAGE = "index.html"
DATA_FOLDER = "questions"


@dataclass(frozen=True)
class BlockView:
    """A block with its verdict and figures."""

    name: str
    verdict: Verdict
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Document:
    """What the page shows.

    Attributes:
        title: Name of the run.
        lead: What the page is about, one line.
        summary: The verdicts in one sentence, "" where one needs none.
        facts: Labelled facts about the run.
        blocks: In order; the first is shown first.
        notes: Tables about the data as a whole.
        questions: For the browser; None leaves it out.
    """

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    blocks: Sequence[BlockView]
    notes: Sequence[Figure]
    questions: Packed | None
    summary: str = ""


def write_document(folder: Path, document: Document) -> list[Path]:
    """Write ``index.html``, and ``questions/*.js`` where the questions would make it too large.

    Returns:
        The files written.

    Raises:
        StoreError: The folder is not writable.
    """
    packed, page = document.questions, folder / PAGE
    text = _rendered(document, inline=True)
    beside = packed is not None and len(text.encode()) > MOST_INLINE
    written = _write_parts(folder / DATA_FOLDER, packed if beside else None)
    write_text(page, _rendered(document, inline=False) if beside else text)
    return [page, *written]


def _write_parts(folder: Path, packed: Packed | None) -> list[Path]:
    """A script per part: a page opened from a disk may load scripts, and nothing else."""
    if folder.is_dir():
        rmtree(folder)
    if packed is None:
        return []
    parts = {"index": packed.index} | {str(i): page for i, page in enumerate(packed.pages)}
    for name, part in parts.items():
        write_text(folder / f"{name}.js", f'blenderPart("{name}","{part}")\n')
    return [folder / f"{name}.js" for name in parts]


def _rendered(document: Document, *, inline: bool) -> str:
    script, style = _asset("page.js"), _asset("style.css")
    template = _environment().from_string(_asset("index.html.jinja"))
    page = template.render(
        document=document,
        inline=inline,
        folder=DATA_FOLDER,
        script=Markup(script),
        style=Markup(style),
        policy=_policy(script),
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _environment() -> Environment:
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _policy(script: str) -> str:
    """Content security policy: this one script, the parts beside the page, no network at all."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    rules: dict[str, Any] = {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}' 'self' file:",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _asset(name: str) -> str:
    return files("blender_med.reports.page").joinpath("assets", name).read_text(encoding="utf-8")
