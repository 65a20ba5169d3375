"""A recipe as one file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from autoq.errors import RecipeError
from autoq.exporters.bundle import BundleExporter
from autoq.recipe import Recipe
from tests.contracts.exporters import ExporterContract
from tests.exporters.sources import source_of


class TestBundle(ExporterContract):
    exporter = BundleExporter
    is_exact = True

    def metadata(self, path: Path) -> dict[str, str]:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".json")}

    def test_nothing_lies_beside_it(self, tmp_path: Path) -> None:
        self.write(source_of("mixed"), self.path(tmp_path))
        assert list(tmp_path.iterdir()) == [self.path(tmp_path)]
        assert {"autoq", "torch", "python"} <= json.loads(self.metadata(self.path(tmp_path))["versions.json"]).keys()

    def test_the_same_recipe_is_the_same_file(self, tmp_path: Path) -> None:
        contents = []
        for name in ("one.zip", "other.zip"):
            self.write(source_of("w4a4"), tmp_path / name)
            contents.append((tmp_path / name).read_bytes())
        assert contents[0] == contents[1]

    def test_codes_of_four_bits_take_less_than_those_of_eight(self, tmp_path: Path) -> None:
        packed = {}
        for name in ("w4a4", "w8a8"):
            self.write(source_of(name), tmp_path / f"{name}.zip")
            with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
                codes = archive.getinfo("recipe.safetensors")
            packed[name] = codes.compress_size
            assert codes.compress_size < codes.file_size
        assert packed["w4a4"] < 0.75 * packed["w8a8"]

    def test_its_files_live_as_long_as_the_recipe(self, tmp_path: Path) -> None:
        self.write(source_of("w4a4"), self.path(tmp_path))
        recipe = Recipe.load(self.path(tmp_path))
        folder = recipe.folder
        assert folder is not None
        assert (folder / "recipe.safetensors").is_file()
        del recipe
        assert not folder.exists()

    def test_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        path = self.path(tmp_path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other.json", "{}")
        with pytest.raises(RecipeError, match=r"quantized\.zip' is no bundle, or a damaged one"):
            Recipe.load(path)
        self.write(source_of("w4a4"), path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(RecipeError, match="a damaged one"):
            Recipe.load(path)
