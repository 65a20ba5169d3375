"""autoq's own recipe file."""

from __future__ import annotations

from pathlib import Path

from autoq.recipe import Recipe


def export_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe as JSON (DESIGN.md §9)."""
    recipe.save(path)
