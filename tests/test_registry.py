import pytest

from blender_med.errors import ConfigError
from blender_med.registry import Registry, suggestion

COLOURS = Registry("colour", {"decimal": "decimal:Decimal", "fraction": "fractions:Fraction"})


def test_loads_on_use() -> None:
    from decimal import Decimal

    assert COLOURS.load("decimal") is Decimal
    assert list(COLOURS) == ["decimal", "fraction"]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown colour.*'decimel'.*did you mean 'decimal'"):
        COLOURS.check("decimel", key="k")


def test_far_name_lists_all() -> None:
    assert suggestion("zzz", COLOURS) == "choose one of: decimal, fraction"
