"""The directories of recipes with weights of their own: the recipe, what was solved or learned, and how it went."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from autoq.files import sha256_hex, write_text
from autoq.recipe import Recipe
from autoq.reconstruction.block_folder import BlockReport
from autoq.reconstruction.finishing import LayerReport
from autoq.runs.directory import BaseRunDirectory


class SolvedRecipeDirectory(BaseRunDirectory[dict[str, Any]]):
    """A recipe with a file of its own weights and parameters; the record says what these depend on."""

    orphans: ClassVar[Mapping[str, str]] = {"recipe.json": "another recipe"}

    @property
    def recipe(self) -> Path:
        """The recipe, written last."""
        return self.path / "recipe.json"

    @property
    def operands(self) -> Path:
        """Its weights and quantizer parameters."""
        return self.path / "recipe.safetensors"

    @property
    def is_finished(self) -> bool:
        """Whether the recipe is there, and the file that it names.

        Raises:
            RecipeError: the recipe is damaged.
        """
        if not (self.recipe.exists() and self.operands.exists()):
            return False
        reference = Recipe.load(self.recipe).improved
        return reference is not None and reference.sha256 == sha256_hex([self.operands.read_bytes()])


class FinishingDirectory(SolvedRecipeDirectory):
    """A recipe that was finished in closed form."""

    holds: ClassVar[str] = "a finished recipe"
    record_name: ClassVar[str] = "finishing.json"

    def write_table(self, reports: Sequence[LayerReport]) -> None:
        """Write ``finishing.csv``: how each layer went.

        Raises:
            OSError: it cannot be written.
        """
        _write_csv(self.path / "finishing.csv", [asdict(report) for report in reports])


class ReconstructionDirectory(SolvedRecipeDirectory):
    """A reconstructed recipe, or as much of it as there is; its record says what the reconstruction depends on."""

    holds: ClassVar[str] = "a reconstruction"
    record_name: ClassVar[str] = "reconstruction.json"

    @property
    def table(self) -> Path:
        """How each block went."""
        return self.path / "reconstruction.csv"

    @property
    def blocks(self) -> Path:
        """What each block learned, until all is done."""
        return self.path / "blocks"

    def remove_blocks(self) -> None:
        """Remove what was kept to go on from."""
        shutil.rmtree(self.blocks, ignore_errors=True)

    def write_table(self, reports: Sequence[BlockReport]) -> None:
        """Write ``reconstruction.csv``.

        Raises:
            OSError: it cannot be written.
        """
        rows = [{"block" if key == "name" else key: value for key, value in vars(report).items()} for report in reports]
        _write_csv(self.table, rows)

    def read_table(self) -> tuple[BlockReport, ...]:
        """Return what :meth:`write_table` wrote; nothing where it is missing or damaged."""
        try:
            with self.table.open(encoding="utf-8", newline="") as file:
                return tuple(_report(row) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError):
            return ()


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with a column for each key."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _report(row: Mapping[str, str]) -> BlockReport:
    return BlockReport(
        name=row["block"],
        loss=row["loss"],
        before=float(row["before"]),
        after=float(row["after"]),
        kept=row["kept"] == "True",
        iterations=int(row["iterations"]),
        seconds=float(row["seconds"]),
    )
