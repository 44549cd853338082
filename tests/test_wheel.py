"""The wheel: the package alone at the top, with every recipe and the sample questions inside."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from blender_med import __version__
from blender_med.recipes_folder import shipped_recipes

ROOT = Path(__file__).resolve().parents[1]


def test_wheel_carries_recipes_and_sample_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatchling import build

    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
    top = {name.partition("/")[0] for name in names}
    assert top == {"blender_med", f"blender_med-{__version__}.dist-info"}
    recipes = {f"blender_med/recipes/{path.relative_to(ROOT)}" for path in shipped_recipes()}
    assert len(recipes) > 20
    assert recipes <= names
    sample = {f"blender_med/recipes/data/sample/{task}.jsonl" for task in ("long", "mcq")}
    assert sample <= names
    page = {f"blender_med/reports/page/assets/{n}" for n in ("index.html.jinja", "page.js")}
    assert page <= names
