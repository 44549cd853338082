"""Every recipe in the repository is valid, and every documentation file names files that exist."""

import re
from pathlib import Path

import pytest

from blender_med.recipes_folder import FOLDERS, shipped_recipes, shipped_root
from blender_med.stages.validation import validate_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [str(path.relative_to(ROOT)) for path in shipped_recipes()]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_there_are_recipes_of_every_kind_so_far() -> None:
    assert shipped_root() == ROOT
    counts = {folder: sum(r.startswith(f"{folder}/") for r in RECIPES) for folder in FOLDERS}
    assert counts["pipelines"] >= 3
    assert counts["experts"] >= 10
    assert counts["data"] >= 9
    assert counts["rankers"] >= 4
    assert counts["fusers"] >= 4


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid(recipe: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    kinds = {
        "pipelines": {"pipeline"},
        "experts": {"expert", "expert job"},
        "rankers": {"ranker", "grades"},
        "fusers": {"fuser", "embedding fuser"},
        "data": {"data set"},
    }
    assert validate_recipe(Path(recipe)) in kinds[recipe.split("/")[0]]


def test_every_data_recipe_has_a_card() -> None:
    recipes = sorted((ROOT / "data").glob("*.yaml"))
    assert recipes
    assert [r.name for r in recipes if not r.with_suffix(".md").is_file()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_recipes_named_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    named = re.findall(r"\b(?:pipelines|experts|rankers|fusers|data)/[a-z0-9_-]+\.yaml", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []
