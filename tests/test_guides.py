"""The Python of the documents: names that exist, called with arguments that they take."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(BLOCK.findall(path.read_text("utf-8")), start=1)
]
# What the documents take from their reader; it stands for anything.
GIVEN = frozenset({"answers", "references", "lists_of_references", "dev_scores", "is_best"})


def stand_in(thing: Any) -> Any:
    """Takes the arguments that ``thing`` takes, and gives what it says to give."""
    double = create_autospec(thing)
    if not inspect.isclass(thing):
        double.return_value = _result(thing)
        return double
    for name, method in inspect.getmembers(thing, inspect.ismethod):
        hints = inspect.get_annotations(method.__func__)
        if hints.get("return") in (thing.__name__, "Self"):
            getattr(double, name).return_value = double.return_value
    return double


def _result(function: Any) -> Any:
    kind = vars(inspect.getmodule(function)).get(inspect.get_annotations(function).get("return"))
    return tuple(MagicMock(name=name) for name in getattr(kind, "_fields", ())) or MagicMock()


def run(snippet: str) -> None:
    """Run a snippet with a stand-in for everything that it imports from this package."""

    def imported(module: str, names: Any, scope: Any, wanted: Any, level: int = 0) -> Any:
        if module.partition(".")[0] != "blender_med":
            return __import__(module, names, scope, wanted, level)
        found = importlib.import_module(module)
        return MagicMock(**{name: stand_in(getattr(found, name)) for name in wanted})

    own = {name: getattr(builtins, name) for name in dir(builtins)} | {"__import__": imported}
    given = {name: MagicMock(name=name) for name in GIVEN}
    exec(compile(snippet, "snippet", "exec"), {"__builtins__": own, **given})


def test_documents_show_python() -> None:
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_uses_what_there_is(snippet: str) -> None:
    run(snippet)


@pytest.mark.parametrize(
    ("snippet", "error"),
    [
        ("from blender_med import Blend", AttributeError),
        ("from blender_med import Blender\nBlender().rank_all(['q'])", AttributeError),
        ("from blender_med import Blender\nBlender().rank(['q'], [['a']], batch=3)", TypeError),
        ("from blender_med import Blender\nblender = Blender()\nblendr.rank()", NameError),
        (
            "from blender_med.fusers.genfuser import GenFuser\n"
            "GenFuser.from_pretrained('x').fuze(['i'], ['q'], [['a']])",
            AttributeError,
        ),
        (
            "from blender_med.metrics.bertscore import bert_score\n"
            "precision, recall = bert_score([], [], model='m')",
            ValueError,
        ),
    ],
)
def test_a_wrong_snippet_would_be_noticed(snippet: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(snippet)
