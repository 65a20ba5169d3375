"""What an exporter is given."""

from __future__ import annotations

import pytest

from autoq.errors import RecipeError
from autoq.exporters import ExportSource
from autoq.recipe import ModelReference, Recipe
from autoq.scoring.quantized_module import QuantizedModule
from tests.exporters.sources import nothing


def test_the_module_is_made_when_it_is_needed_and_once() -> None:
    made: list[object] = []

    def make() -> QuantizedModule:
        made.append(object())
        return made[-1]  # type: ignore[return-value]

    recipe = Recipe(model=ModelReference(name="m", weights_sha256="0"), sites={})
    source = ExportSource(recipe, make, nothing)
    assert source.recipe is recipe
    assert made == []
    assert source.module is source.module is made[0]
    assert len(made) == 1


def test_why_there_is_no_module_comes_through() -> None:
    def fail() -> QuantizedModule:
        raise RecipeError("the recipe's images are gone: give others")

    recipe = Recipe(model=ModelReference(name="m", weights_sha256="0"), sites={})
    with pytest.raises(RecipeError, match="images are gone"):
        _ = ExportSource(recipe, fail, nothing).module
