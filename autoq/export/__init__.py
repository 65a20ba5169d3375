"""Recipes in other people's formats.

To add a format, write ``export_xxx(recipe, folder, path)`` in a file of its own and add it to ``EXPORTERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autoq.errors import RecipeError
from autoq.export.pick import Picked, pick
from autoq.export.recipe_json import export_recipe
from autoq.recipe import Recipe
from autoq.registry import Registry

EXPORTERS: Registry[Callable[[Recipe, Path, Path], None]] = Registry("format", RecipeError, {"recipe": export_recipe})
"""``--format`` to the function that writes it: a recipe, the folder where it lies, and the file to write, which is
written whole or not at all."""

__all__ = ["EXPORTERS", "Picked", "export_recipe", "pick"]
