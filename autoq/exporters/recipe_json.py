"""autoq's own recipe file, with the weights and parameters that it needs beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

from autoq.errors import RecipeError, RunDirectoryError
from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written, tensors_of
from autoq.files import sha256_hex
from autoq.recipe import OperandsReference, Recipe
from autoq.scoring.solved_operands import SolvedOperands, write_operands


class RecipeExporter(BaseExporter):
    """Writes JSON, and beside it a safetensors file with the codes of weights and the quantizers' parameters."""

    name: ClassVar[str] = "recipe"
    suffix: ClassVar[str] = ".json"
    reader: ClassVar[str] = "autoq evaluate, autoq.quantize"
    expresses: ClassVar[str] = "every recipe"
    loses: ClassVar[str] = "nothing; the model itself is elsewhere"
    is_recipe: ClassVar[bool] = True

    def check_path(self, source: ExportSource, path: Path) -> None:
        """Refuse to replace a file beside ``path`` that belongs to something else.

        Raises:
            RunDirectoryError: names the file.
        """
        beside, reference = path.with_suffix(".safetensors"), source.recipe.solved
        if beside == path:
            raise RunDirectoryError(f"{os.fspath(path)!r} is where the weights go: name the recipe {path.stem}.json")
        is_same = reference is not None and beside.is_file() and _sha256(beside) == reference.sha256
        if beside.exists() and not is_same and not _belongs(beside, path):
            raise RunDirectoryError(
                f"the recipe's weights go to {os.fspath(beside)!r}, which is something else's: choose another name"
            )

    def write(self, source: ExportSource, path: Path) -> Written:
        """Write ``path`` and the safetensors file of the same name, after which no calibration is needed."""
        write_with_operands(source, path, path.with_suffix(".safetensors"))
        return Written()

    def can_run(self, source: ExportSource) -> bool:
        """Tell whether the model is at hand."""
        return source.reopen is not None

    def load(self, source: ExportSource, path: Path) -> Runner:
        """Apply the recipe that was written to its model."""
        return reopened(source, Recipe.load(path))


def reopened(source: ExportSource, recipe: Recipe) -> Runner:
    """Apply a recipe that was read back to the source's model."""
    assert source.reopen is not None  # noqa: S101 - can_run has said so
    model = source.reopen(recipe)
    return lambda images: tensors_of(model(images))


def write_with_operands(source: ExportSource, path: Path, operands: Path) -> None:
    """Write a recipe, and the file that has its codes and parameters.

    Args:
        source: a recipe that names such a file has it copied; else the file is made from the quantized model.
        path: of the recipe.
        operands: of the file, in the same folder.

    Raises:
        OSError: a file cannot be written.
    """
    recipe, reference = source.recipe, source.recipe.solved
    there = None if reference is None else (recipe.folder or Path()) / reference.file
    if reference is not None and there is not None and there.is_file() and _sha256(there) == reference.sha256:
        shutil.copyfile(there, operands)
    else:
        module = source.module
        recipe = module.recipe
        solved = SolvedOperands(module.quantizers, module.codes)
        write_operands(operands, solved, module.folded, {"rotated": recipe.rotated})
    _referring(recipe, operands).save(path)


def _referring(recipe: Recipe, operands: Path) -> Recipe:
    """Return the recipe with the file named in the place where its weights and parameters are looked for."""
    found = {"file": operands.name, "sha256": _sha256(operands)}
    fields = ("reconstruction", "finishing", "operands")
    field = next((name for name in fields if getattr(recipe, name) is not None), "operands")
    made = OperandsReference(**found) if recipe.solved is None else recipe.solved.model_copy(update=found)
    return recipe.model_copy(update={field: made})


def _sha256(path: Path) -> str:
    return sha256_hex([path.read_bytes()])


def _belongs(weights: Path, path: Path) -> bool:
    """Whether ``path`` is a recipe that names ``weights``."""
    try:
        reference = Recipe.load(path).solved
    except RecipeError:
        return False
    return reference is not None and reference.file == weights.name
