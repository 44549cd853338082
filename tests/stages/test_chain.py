import pytest

from blender_med.errors import ConfigError
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import stages_of


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["generate", "prepare"], "reads the output of 'prepare'"),
        (["prepare", "score"], "reads the output of 'generate'"),
        (["prepare", "prepare"], "stands twice"),
        (["prepare", "generat"], "did you mean 'generate'"),
        ([{"type": "score", "metrics": ["rougel"]}], "did you mean 'rougeL'"),
        ([{"type": "prepare", "splits": {"dev": 0.5, "test": 0.6}}], "sum to 1"),
        ([{"type": "generate", "long": {"samples": 3, "sampling": {}}}], "temperature"),
        ([{"type": "generate", "mcq": {"protocols": ["lm_eval", "lm_eval"]}}], "twice"),
        ([{"type": "prepare", "splitz": "auto"}], "did you mean 'splits'"),
        ([], "stages"),
    ],
)
def test_broken_chains_are_refused(recipe_tree, save_recipe, stages, message) -> None:
    recipe_tree["stages"] = stages
    with pytest.raises(ConfigError, match=message):
        stages_of(open_recipe(save_recipe(recipe_tree)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.type=medquadd", "did you mean 'medquad'"),
        ("experts=[smollm2-135mm]", "did you mean 'smollm2-135m'"),
        ("experts=[]", "experts"),
        ("name=a/b", "name"),
        ("seed=-1", "seed"),
        ("datset.limit=3", "did you mean 'dataset'"),
        ("experts=[{name: a, engine: fake}, {name: a, engine: fake}]", "same name"),
        ("experts=[{name: a, engine: vllm}]", "exactly one of 'model' and 'package'"),
    ],
)
def test_broken_recipes_name_the_fix(recipe_tree, save_recipe, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        open_recipe(save_recipe(recipe_tree), [override])
