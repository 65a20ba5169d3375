"""Recipes in other people's formats.

To add a format, write ``export_xxx(source, path)`` in a file of its own and add it to ``EXPORTERS``.
"""

from __future__ import annotations

from autoq.errors import RecipeError
from autoq.exporters._base import Exporter, ExportSource
from autoq.exporters.pick import VERSIONS, Picked, pick
from autoq.exporters.recipe_json import export_recipe
from autoq.registry import Registry

EXPORTERS: Registry[Exporter] = Registry("format", RecipeError, {"recipe": export_recipe})
"""``--format`` to the function that writes it."""

__all__ = ["EXPORTERS", "VERSIONS", "ExportSource", "Exporter", "Picked", "export_recipe", "pick"]
