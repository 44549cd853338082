from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from blender_med.config import (
    InvalidValueError,
    Recipe,
    apply_overrides,
    load_yaml,
    parse,
    result_fields,
    speed_only,
)
from blender_med.errors import BlenderMedError, ConfigError


class Inner(Recipe):
    temperature: float = 0.7
    batch: int = speed_only(8)


class Tagged(Recipe):
    type: Literal["tagged"] = "tagged"
    shares: Literal["auto"] | dict[str, Annotated[float, Field(gt=0)]] = "auto"

    @field_validator("shares")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, dict) and "test" not in value:
            raise InvalidValueError("no share for test", fix="add test")
        return value


class Other(Recipe):
    type: Literal["other"] = "other"


class Outer(Recipe):
    name: str
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    tagged: tuple[Annotated[Tagged | Other, Field(discriminator="type")], ...] = ()

    @model_validator(mode="after")
    def _short(self) -> Self:
        if len(self.name) > 5:
            raise ValueError("the name is too long")
        return self


def test_unknown_key_names_the_key_and_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"key 'inner.temprature'.*did you mean 'temperature'"):
        parse(Outer, {"name": "x", "inner": {"temprature": 1}}, file="r.yaml")


def test_wrong_type_names_file_key_and_value() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"name": "x", "inner": {"temperature": "hot"}}, file="r.yaml")
    message = str(caught.value)
    assert "r.yaml" in message
    assert "'inner.temperature'" in message
    assert "'hot'" in message
    assert "Fix:" in message


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"tagged": [{"type": "tagged", "shares": {"dev": 0}}]}, "key 'tagged.0.shares.dev':"),
        ({"tagged": [{"type": "tagged", "shares": "no"}]}, "key 'tagged.0.shares':"),
        ({"tagged": [{"type": "taged"}]}, "key 'tagged.0':.*did you mean 'tagged'"),
        (
            {"tagged": [{"type": "tagged", "shares": {"dev": 1}}]},
            r"key 'tagged.0.shares': no share for test \(received \{'dev': 1.*\. Fix: add test$",
        ),
        ({"inner": 3}, "key 'inner':.*below the key"),
        ({"name": "toolong"}, "^r.yaml: the name is too long. Fix: change it as the message says$"),
    ],
)
def test_keys_are_those_of_an_override(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Outer, {"name": "x"} | tree, file="r.yaml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"key 'outer\.name': field required"):
        parse(Outer, {"inner": {}}, key="outer")


def test_recipes_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Outer(name="x").name = "y"  # type: ignore[misc]


def test_result_fields_leave_out_speed_at_every_depth() -> None:
    recipe = Outer(name="x", many=(Inner(batch=4),))
    assert result_fields(recipe) == {
        "name": "x",
        "inner": {"temperature": 0.7},
        "many": [{"temperature": 0.7}],
        "tagged": [],
    }


def test_overrides_reach_mappings_and_lists_and_leave_the_original() -> None:
    tree = {"a": {"b": [1, {"c": 2}]}}
    assert apply_overrides(tree, ["a.b.1.c=5", "x.y=[1, 2]", "a.b.2=new", "n=null"]) == {
        "a": {"b": [1, {"c": 5}, "new"]},
        "x": {"y": [1, 2]},
        "n": None,
    }
    assert tree == {"a": {"b": [1, {"c": 2}]}}


def test_list_items_are_found_by_type_or_name() -> None:
    tree = {"stages": [{"type": "score"}], "experts": [{"name": "a", "dtype": "auto"}]}
    changed = apply_overrides(tree, ["stages.score.metrics=[bleu]", "experts.a.dtype=float32"])
    assert changed["stages"] == [{"type": "score", "metrics": ["bleu"]}]
    assert changed["experts"] == [{"name": "a", "dtype": "float32"}]


def test_overrides_append_to_lists() -> None:
    tree = {"stages": [{"type": "gate", "fusers": ["a"]}]}
    changed = apply_overrides(tree, ["stages.gate.fusers+=b", "stages.gate.fusers += {name: c}"])
    assert changed == {"stages": [{"type": "gate", "fusers": ["a", "b", {"name": "c"}]}]}
    assert tree["stages"] == [{"type": "gate", "fusers": ["a"]}]


@pytest.mark.parametrize("override", ["a.b+=1", "a.x+=1", "x+=1", "+=1", "a.b.c+=1"])
def test_only_lists_are_appended_to(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"a": {"b": 3}}, [override])


@pytest.mark.parametrize("override", ["", "novalue", "=1", "a.b.c=1", "a.9=1", "a=[1"])
def test_bad_overrides_are_config_errors(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"a": {"b": 3}} if override != "a.9=1" else {"a": [1]}, [override])


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        "- 1\n",
        "a: [1\n",
        "",
        "1: 2\n",
        "a: !!python/object:os.system x\n",
        "a: \x00",
    ],
)
def test_bad_yaml_is_a_config_error(tmp_path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_yaml(file)


def test_missing_file_is_a_config_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such recipe file"):
        load_yaml(tmp_path / "none.yaml")


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "inner", "many", "x"]), YAML_VALUES))
def test_any_tree_parses_or_gives_a_message(tree: dict[str, object]) -> None:
    try:
        parse(Outer, tree, file="r.yaml")
    except BlenderMedError as error:
        assert "Fix:" in str(error)
