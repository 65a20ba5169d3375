"""A recipe as a pair of files of one name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from autoq.errors import RecipeError, RunDirectoryError
from autoq.exporters import ExportSource, RecipeExporter, write_export
from autoq.files import sha256_hex
from autoq.recipe import ModelReference, Recipe, ReconstructionReference
from autoq.scoring.solved_operands import read_operands
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import PREPROCESSING, bare, nothing, small_model, source_of

WEIGHTS = b"learned"


class TestRecipe(ExporterContract):
    exporter = RecipeExporter
    is_exact = True

    def metadata(self, path: Path) -> dict[str, str]:
        """The recipe is the file itself; the preprocessing is that of the model that it names."""
        return {"recipe.json": path.read_text(), "preprocessing.json": json.dumps(PREPROCESSING)}

    def test_codes_and_parameters_are_those_of_the_module(self, tmp_path: Path) -> None:
        source = source_of("mixed")
        self.write(source, self.path(tmp_path))
        recipe = Recipe.load(self.path(tmp_path))
        assert recipe.content_hash == source.recipe.content_hash, "where its operands lie does not make it another"
        assert recipe.operands is not None
        found = read_operands(tmp_path / recipe.operands.file, small_model()).operands
        assert found.codes.keys() == source.module.codes.keys()
        assert all(torch.equal(found.codes[key], codes) for key, codes in source.module.codes.items())
        for key, quantizer in source.module.quantizers.items():
            assert found.quantizers[key].config == quantizer.config
            for name, value in quantizer.qparams().items():
                assert torch.equal(found.quantizers[key].qparams()[name], value)


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


def export(recipe: Recipe, path: Path) -> None:
    write_export(RecipeExporter(), bare(recipe), path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_files_take_the_name(folder: Path, tmp_path: Path) -> None:
    recipe, path = make_recipe(), tmp_path / "to" / "mine.json"
    for _ in range(2):
        export(recipe.located(folder), path)
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
    export(make_recipe().located(folder), path)
    (folder / "recipe.safetensors").write_bytes(b"more")
    export(make_recipe(b"more").located(folder), path)
    assert path.with_suffix(".safetensors").read_bytes() == b"more"


def test_weights_of_something_else_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "to" / "model.safetensors").write_bytes(b"a model")
    with pytest.raises(RunDirectoryError, match=r"model\.safetensors.*choose another name"):
        export(make_recipe().located(folder), tmp_path / "to" / "model.json")
    assert names(tmp_path / "to") == ["model.safetensors"]
    assert (tmp_path / "to" / "model.safetensors").read_bytes() == b"a model"


def test_the_recipe_cannot_have_the_name_of_its_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"name the recipe mine\.json"):
        export(make_recipe().located(folder), tmp_path / "to" / "mine.safetensors")
    assert names(tmp_path / "to") == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_missing_and_other_weights_are_taken_from_the_module(folder: Path, tmp_path: Path, damage: Any) -> None:
    recipe = make_recipe().located(folder)
    damage(folder / "recipe.safetensors")

    def fail() -> NoReturn:
        raise RecipeError("the recipe's weights are missing")

    with pytest.raises(RecipeError, match="weights are missing"):
        write_export(RecipeExporter(), ExportSource(recipe, fail, nothing), tmp_path / "to" / "mine.json")
    assert names(tmp_path / "to") == []
    module = source_of("w4a4").module
    module.recipe = recipe.model_copy(update={"sites": module.recipe.sites}).located(folder)
    write_export(RecipeExporter(), ExportSource(recipe, lambda: module, nothing), tmp_path / "to" / "mine.json")
    written = Recipe.load(tmp_path / "to" / "mine.json")
    assert written.reconstruction is not None
    assert written.reconstruction.sha256 == sha256_hex([(tmp_path / "to" / "mine.safetensors").read_bytes()])
    found = read_operands(tmp_path / "to" / "mine.safetensors", small_model()).operands
    assert found.codes.keys() == module.codes.keys()


def test_neither_file_is_written_if_one_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        export(make_recipe().located(folder), tmp_path / "absent" / "mine.json")
    (tmp_path / "to" / "mine.json").mkdir()
    with pytest.raises(OSError, match=r"mine\.json"):
        export(make_recipe().located(folder), tmp_path / "to" / "mine.json")
    assert names(tmp_path / "to") == ["mine.json"]
