"""Every notebook runs from start to end, and is stored with what it shows then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
# The kernel's messaging leaves sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    stored, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    assert any(shown(notebook))
    assert shown(stored) == shown(notebook), f"jupyter execute --inplace {path.name}"


def shown(notebook: Any) -> list[list[str]]:
    """The kinds of outputs of every cell, warnings aside; figures differ from machine to machine."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [
            kind
            for out in cell.outputs
            if out.get("name") != "stderr"
            for kind in (out.output_type, *sorted(out.get("data", {})))
        ]
        for cell in cells
    ]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
