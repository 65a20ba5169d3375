from __future__ import annotations

import pytest

from autoq.errors import RecipeError
from autoq.registry import Registry


@pytest.fixture
def colours() -> Registry[int]:
    return Registry("colour", RecipeError, {"red": 1, "green": 2})


def test_it_is_a_mapping_in_the_order_of_registration(colours: Registry[int]) -> None:
    colours.register("amber", 3)
    assert list(colours.items()) == [("red", 1), ("green", 2), ("amber", 3)]
    assert len(colours) == 3
    assert colours["amber"] == colours.lookup("amber") == 3


def test_a_name_is_given_once(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="already a colour 'red'"):
        colours.register("red", 4)
    assert colours["red"] == 1
    colours.unregister("red")
    assert "red" not in colours
    colours.register("red", 4)
    assert colours["red"] == 4


def test_what_was_given_at_first_is_not_changed() -> None:
    first = {"red": 1}
    Registry("colour", RecipeError, first).register("green", 2)
    assert first == {"red": 1}


def test_an_unknown_name_is_explained(colours: Registry[int]) -> None:
    with pytest.raises(RecipeError) as caught:
        colours.lookup("gren")
    assert str(caught.value) == "unknown colour 'gren'; there are red, green. Did you mean 'green'?"
    with pytest.raises(RecipeError, match=r"unknown colour 'xyz'; there are red, green\.$"):
        colours.lookup("xyz")
    with pytest.raises(KeyError):
        colours["gren"]
    with pytest.raises(KeyError):
        colours.unregister("gren")
