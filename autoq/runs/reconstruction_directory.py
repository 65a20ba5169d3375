"""The directory of a reconstruction: the recipe, what was learned, and how it went."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

from autoq.files import sha256_hex, write_text
from autoq.recipe import Recipe
from autoq.reconstruction.block_folder import BlockReport
from autoq.runs.directory import BaseRunDirectory

_COLUMNS = tuple(field.name for field in fields(BlockReport))


class ReconstructionDirectory(BaseRunDirectory[dict[str, Any]]):
    """A reconstructed recipe, or as much of it as there is; its record says what the reconstruction depends on."""

    holds: ClassVar[str] = "a reconstruction"
    record_name: ClassVar[str] = "reconstruction.json"
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
    def table(self) -> Path:
        """How each block went."""
        return self.path / "reconstruction.csv"

    @property
    def blocks(self) -> Path:
        """What each block learned, until all is done."""
        return self.path / "blocks"

    @property
    def is_finished(self) -> bool:
        """Whether the recipe is there, and the file that it names.

        Raises:
            RecipeError: the recipe is damaged.
        """
        if not (self.recipe.exists() and self.operands.exists()):
            return False
        reference = Recipe.load(self.recipe).reconstruction
        return reference is not None and reference.sha256 == sha256_hex([self.operands.read_bytes()])

    def remove_blocks(self) -> None:
        """Remove what was kept to go on from."""
        shutil.rmtree(self.blocks, ignore_errors=True)

    def write_table(self, reports: Sequence[BlockReport]) -> None:
        """Write ``reconstruction.csv``.

        Raises:
            OSError: it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["block", *_COLUMNS[1:]])
        writer.writerows(asdict(report).values() for report in reports)
        write_text(self.table, text.getvalue())

    def read_table(self) -> tuple[BlockReport, ...]:
        """Return what :meth:`write_table` wrote; nothing where it is missing or damaged."""
        try:
            with self.table.open(encoding="utf-8", newline="") as file:
                return tuple(_report(row) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError):
            return ()


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
