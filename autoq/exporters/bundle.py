"""One zip file that has all of a recipe but its model."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from autoq.exporters._base import ExportSource, Written
from autoq.exporters.recipe_json import RecipeExporter, write_with_operands
from autoq.recipe import Recipe
from autoq.version import __version__

_PACKAGES = ("torch", "timm", "numpy")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member, so that the same content is the same file."""


class BundleExporter(RecipeExporter):
    """Writes recipe, codes, parameters, preprocessing and versions; ``Recipe.load`` reads it as it is."""

    name: ClassVar[str] = "bundle"
    suffix: ClassVar[str] = ".zip"
    reader: ClassVar[str] = "autoq evaluate, autoq.quantize: wherever a recipe is taken"
    expresses: ClassVar[str] = "every recipe"
    loses: ClassVar[str] = "nothing; the model itself is elsewhere (--model, where its name says nothing)"

    def check_path(self, source: ExportSource, path: Path) -> None:
        """Write anywhere: nothing lies beside a bundle."""

    def write(self, source: ExportSource, path: Path) -> Written:
        """Write the zip file, compressed: a code of a few bits has a byte, and hardly any of it is left."""
        versions = {name: version(name) for name in _PACKAGES}
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder)
            write_with_operands(source, made / Recipe.FILE, made / "recipe.safetensors")
            preprocessing = json.dumps(source.module.preprocessing, indent=2)
            (made / "preprocessing.json").write_text(preprocessing + "\n", encoding="utf-8")
            document = json.dumps({"autoq": __version__, **versions, **machine}, indent=2)
            (made / "versions.json").write_text(document + "\n", encoding="utf-8")
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(made.iterdir()):
                    member = zipfile.ZipInfo(file.name, _EPOCH)
                    member.compress_type = zipfile.ZIP_DEFLATED
                    with file.open("rb") as content, archive.open(member, "w") as packed:
                        shutil.copyfileobj(content, packed)
        return Written()
