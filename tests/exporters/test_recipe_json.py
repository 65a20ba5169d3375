"""A reconstructed recipe as a pair of files of one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoq.errors import RecipeError, RunDirectoryError
from autoq.exporters import ExportSource, export_recipe
from autoq.files import sha256_hex
from autoq.recipe import ModelReference, Recipe, ReconstructionReference
from tests.exporters.sources import no_module

WEIGHTS = b"learned"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the recipe lies, with its weights."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "recipe.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "to").mkdir()
    return tmp_path / "from"


def make_recipe(weights: bytes = WEIGHTS) -> Recipe:
    reference: dict[str, Any] = {"data": "digits", "images": 1, "seed": 0, "iterations": 1, "importance": "aph"}
    return Recipe(
        model=ModelReference(name="m", weights_sha256="0"),
        sites={},
        reconstruction=ReconstructionReference(file="recipe.safetensors", sha256=sha256_hex([weights]), **reference),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_files_take_the_name(folder: Path, tmp_path: Path) -> None:
    recipe, path = make_recipe(), tmp_path / "to" / "mine.json"
    for _ in range(2):
        export_recipe(ExportSource(recipe.located(folder), no_module), path)
        assert names(tmp_path / "to") == ["mine.json", "mine.safetensors"]
    written = Recipe.load(path)
    assert written.reconstruction is not None
    assert written.reconstruction.file == "mine.safetensors"
    assert path.with_suffix(".safetensors").read_bytes() == WEIGHTS
    assert written.content_hash == recipe.content_hash
    assert recipe.reconstruction is not None
    reference = recipe.reconstruction.model_copy(update={"file": "mine.safetensors"})
    assert written == recipe.model_copy(update={"reconstruction": reference})


def test_one_export_replaces_another(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "to" / "mine.json"
    export_recipe(ExportSource(make_recipe().located(folder), no_module), path)
    (folder / "recipe.safetensors").write_bytes(b"more")
    export_recipe(ExportSource(make_recipe(b"more").located(folder), no_module), path)
    assert path.with_suffix(".safetensors").read_bytes() == b"more"


def test_weights_of_something_else_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "to" / "model.safetensors").write_bytes(b"a model")
    with pytest.raises(RunDirectoryError, match=r"model\.safetensors.*choose another name"):
        export_recipe(ExportSource(make_recipe().located(folder), no_module), tmp_path / "to" / "model.json")
    assert names(tmp_path / "to") == ["model.safetensors"]
    assert (tmp_path / "to" / "model.safetensors").read_bytes() == b"a model"


def test_the_recipe_cannot_have_the_name_of_its_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"name the recipe mine\.json"):
        export_recipe(ExportSource(make_recipe().located(folder), no_module), tmp_path / "to" / "mine.safetensors")
    assert names(tmp_path / "to") == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_missing_and_other_weights_are_refused(folder: Path, tmp_path: Path, damage: Any) -> None:
    damage(folder / "recipe.safetensors")
    with pytest.raises(RecipeError, match=r"recipe\.safetensors.*reconstruct the recipe again"):
        export_recipe(ExportSource(make_recipe().located(folder), no_module), tmp_path / "to" / "mine.json")
    assert names(tmp_path / "to") == []


def test_neither_file_is_written_if_one_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        export_recipe(ExportSource(make_recipe().located(folder), no_module), tmp_path / "absent" / "mine.json")
    (tmp_path / "to" / "mine.json").mkdir()
    with pytest.raises(OSError, match=r"mine\.json"):
        export_recipe(ExportSource(make_recipe().located(folder), no_module), tmp_path / "to" / "mine.json")
    assert names(tmp_path / "to") == ["mine.json"]
