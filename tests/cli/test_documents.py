"""Every command that a document shows is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from blender_med.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines(*starts: str) -> list[str]:
    """Lines of the shell blocks of all documents that begin with one of ``starts``, whole."""
    blocks = (block for path in DOCUMENTS for block in BLOCK.findall(path.read_text("utf-8")))
    found = (line.strip() for block in blocks for line in block.replace("\\\n", "").splitlines())
    return sorted({line for line in found if line.startswith(starts)})


COMMANDS = lines("blender-med ", ".venv/bin/blender-med ")


def parsed(command: Any, name: str, words: list[str], parent: Any = None) -> Any:
    """Context of the innermost command, its arguments read but not acted upon."""
    context = command.make_context(name, words, parent=parent)
    if not hasattr(command, "resolve_command"):
        return context
    inner, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return parsed(found, inner, rest, context)


def test_documents_show_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert parsed(typer.main.get_command(app), words[0], words[1:]).command.callback is not None


@pytest.mark.parametrize("line", ["blender-med run", "blender-med run a.yaml --nonsense"])
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    words = shlex.split(line)
    with pytest.raises(Exception, match=r"Missing parameter|No such option"):
        parsed(typer.main.get_command(app), words[0], words[1:])


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = {line.split()[1] for line in lines("make ")}
    assert named
    assert named <= set(targets)
