"""What an exporter is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autoq.recipe import Recipe
from autoq.scoring.quantized_module import QuantizedModule


@dataclass(frozen=True)
class ExportSource:
    """A recipe to export, and the model that it makes.

    Attributes:
        recipe: what is quantized and how.
        make_module: applies the recipe to its model; called at most once, by formats that need more than the recipe.
    """

    recipe: Recipe
    make_module: Callable[[], QuantizedModule]

    @cached_property
    def module(self) -> QuantizedModule:
        """The quantized model: its graph, its solved quantizers and the codes of its weights.

        Raises:
            InputError: the model, its bank or its images cannot be found.
        """
        return self.make_module()


Exporter = Callable[[ExportSource, Path], None]
"""Writes a source to a file, whole or not at all.

Raises:
    RecipeError: the format cannot express the recipe, or files that belong to it are missing.
    OSError: the file cannot be written; what was there before is still there.
"""
