"""autoq's own recipe file."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from autoq.errors import RecipeError, RunDirectoryError
from autoq.exporters._base import ExportSource
from autoq.files import atomic_path, sha256_hex
from autoq.recipe import Recipe


def export_recipe(source: ExportSource, path: Path) -> None:
    """Write the recipe as JSON, and weights of its own as safetensors of the same name beside it.

    Args:
        source: the recipe; if it is finished or reconstructed, the file that it names lies beside it.
        path: the JSON file.

    Raises:
        RecipeError: the file that the recipe names is missing or another.
        RunDirectoryError: a file that belongs to nothing here is where the safetensors would go.
        OSError: a file cannot be written; then neither is.
    """
    recipe = source.recipe
    reference = recipe.solved
    if reference is None:
        recipe.save(path)
        return
    weights, beside = (recipe.folder or Path()) / reference.file, path.with_suffix(".safetensors")
    if not weights.is_file() or _sha256(weights) != reference.sha256:
        raise RecipeError(
            f"{os.fspath(weights)!r} is missing or not the recipe's: finish or reconstruct the recipe again"
        )
    if path.is_dir():  # found out now, not when the other file has its name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if beside == path:
        raise RunDirectoryError(f"{os.fspath(path)!r} is where the weights go: name the recipe {path.stem}.json")
    if beside.exists() and not _belongs(beside, path) and _sha256(beside) != reference.sha256:
        raise RunDirectoryError(
            f"the recipe's weights go to {os.fspath(beside)!r}, which is something else's: choose another name"
        )
    field = "finishing" if recipe.reconstruction is None else "reconstruction"
    own = recipe.model_copy(update={field: reference.model_copy(update={"file": beside.name})})
    # Both are complete before either has its name.
    with atomic_path(path) as text, atomic_path(beside) as copied:
        shutil.copyfile(weights, copied)
        own.save(text)


def _sha256(path: Path) -> str:
    return sha256_hex([path.read_bytes()])


def _belongs(weights: Path, path: Path) -> bool:
    """Whether ``path`` is a recipe that names ``weights``."""
    try:
        reference = Recipe.load(path).solved
    except RecipeError:
        return False
    return reference is not None and reference.file == weights.name
