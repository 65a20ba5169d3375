"""The directory of a reconstruction: finished or not, and how it went."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.errors import RunDirectoryError
from autoq.files import sha256_hex
from autoq.recipe import ModelReference, Recipe, ReconstructionReference
from autoq.reconstruction.block_folder import BlockReport
from autoq.runs.reconstruction_directory import ReconstructionDirectory

REPORTS = (
    BlockReport("blocks.0", "aph", 0.1 + 0.2, 1e-17, True, 20, 1.25),
    BlockReport("head", "kl", 0.5, 0.5, False, 0, 0.0),
)


def test_the_table_comes_back(tmp_path: Path) -> None:
    directory = ReconstructionDirectory(tmp_path)
    assert directory.read_table() == ()
    directory.write_table(REPORTS)
    assert directory.read_table() == REPORTS
    assert directory.table.read_text().splitlines()[0] == "block,loss,before,after,kept,iterations,seconds"
    directory.table.write_text("block,loss\nhead,kl\n")
    assert directory.read_table() == ()


def test_it_is_finished_with_the_file_that_the_recipe_names(tmp_path: Path) -> None:
    directory = ReconstructionDirectory(tmp_path)
    assert not directory.is_finished
    directory.operands.write_bytes(b"learned")
    assert not directory.is_finished
    recipe = Recipe(model=ModelReference(name="m", weights_sha256="ab"), sites={})
    recipe.save(directory.recipe)
    assert not directory.is_finished
    reference = ReconstructionReference(
        file=directory.operands.name,
        sha256=sha256_hex([b"learned"]),
        data="digits",
        images=1,
        seed=0,
        iterations=1,
        importance="aph",
    )
    recipe.model_copy(update={"reconstruction": reference}).save(directory.recipe)
    assert directory.is_finished
    directory.operands.write_bytes(b"of another run")
    assert not directory.is_finished


def test_what_was_kept_to_go_on_from_is_removed(tmp_path: Path) -> None:
    directory = ReconstructionDirectory(tmp_path)
    directory.remove_blocks()
    directory.blocks.mkdir()
    (directory.blocks / "000-head.safetensors").write_bytes(b"")
    directory.remove_blocks()
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_another_origin_is_refused(tmp_path: Path) -> None:
    directory = ReconstructionDirectory(tmp_path)
    directory.recipe.write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds another recipe; choose another --out"):
        directory.refuse_other({})
    directory.save({"seed": 0})
    assert directory.refuse_other({"seed": 0}) == {"seed": 0}
    with pytest.raises(RunDirectoryError, match=r"holds a reconstruction with another seed \(was 0, is 1\)"):
        directory.refuse_other({"seed": 1})
