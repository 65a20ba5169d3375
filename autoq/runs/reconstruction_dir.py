"""The directory of a reconstruction: what it holds, and for which reconstruction it may be used."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autoq.errors import RunDirectoryError
from autoq.files import sha256_hex, write_text
from autoq.recipe import Recipe
from autoq.reconstruction.block_folder import BlockReport

_COLUMNS = tuple(field.name for field in fields(BlockReport))


def load_record(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None if there is no such file.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{os.fspath(path)!r} is damaged: delete it and what lies beside it") from error
    if not isinstance(document, dict):
        raise RunDirectoryError(f"{os.fspath(path)!r} is damaged: delete it and what lies beside it")
    return document


def refuse_differing(folder: Path, what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse a directory whose files were made of something else.

    Raises:
        RunDirectoryError: names what differs.
    """
    plain = json.loads(json.dumps(dict(new)))  # as it comes back from a file
    if differing := [key for key in plain if old.get(key) != plain[key]]:
        changes = ", ".join(f"{key} (was {old.get(key)!r}, is {plain[key]!r})" for key in differing)
        raise RunDirectoryError(
            f"{os.fspath(folder)!r} holds {what} with another {changes}; choose another --out or delete it"
        )


@dataclass(frozen=True)
class ReconstructionDirectory:
    """A reconstructed recipe, or as much of it as there is.

    Attributes:
        path: the directory; it need not exist.
    """

    path: Path

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
    def _record(self) -> Path:
        return self.path / "reconstruction.json"

    def refuse_foreign(self) -> None:
        """Refuse a directory that holds a search, or a recipe that is none of a reconstruction; creates nothing.

        Raises:
            RunDirectoryError: it does.
        """
        if load_record(self._record) is None:
            for name, what in (("run.json", "a search"), (self.recipe.name, "another recipe")):
                if (self.path / name).exists():
                    raise RunDirectoryError(f"{os.fspath(self.path)!r} holds {what}; choose another --out")

    def refuse_other(self, identity: Mapping[str, Any]) -> None:
        """Refuse a directory that holds anything but this reconstruction; creates nothing.

        Args:
            identity: what the reconstruction depends on; plain JSON.

        Raises:
            RunDirectoryError: it does, or is damaged.
        """
        self.refuse_foreign()
        if (known := load_record(self._record)) is not None:
            refuse_differing(self.path, "a reconstruction", known, identity)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write what is being reconstructed.

        Raises:
            OSError: it cannot be written.
        """
        write_text(self._record, json.dumps(dict(identity), indent=1) + "\n")

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
        """What :meth:`write_table` wrote; nothing where it is missing or damaged."""
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
