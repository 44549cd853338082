from __future__ import annotations

import pytest

from blender_med.config import load_yaml, parse
from blender_med.data import load_dataset_config
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.recipes_folder import shipped_root

RECIPES = sorted((shipped_root() / "data").glob("*.yaml"))
LOCAL = {
    "medquad": ("medquad/9_CDC_QA.zip", 220),
    "pubmedqa": ("pubmedqa", 700),
    "medqa": ("medqa", 873),
    "medmcqa": ("medmcqa", 3483),
    "medical_meadow": ("medical_meadow", 5942),
    "liveqa_med": ("liveqa_med", 104),
}


def test_every_type_has_a_recipe():
    types = {load_yaml(path)["type"] for path in RECIPES}
    assert types | {"jsonl", "parquet"} == set(DATASETS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_its_loader_takes_it(path):
    config = parse(DatasetConfig, load_yaml(path), file=path)
    assert config.description
    assert DATASETS.load(config.type)(config).name == config.type


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_has_a_card(path):
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith("# ")
    assert f"`{path.name}`" in card


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_recipe_on_a_local_copy(name, shared_data):
    folder, count = LOCAL[name]
    tree = load_yaml(shipped_root() / "data" / f"{name}.yaml")
    config = parse(DatasetConfig, {**tree, "path": str(shared_data / folder)})
    assert len(load_dataset_config(config)) == count
