"""Tensors kept so that an interrupted run can go on, and refused where they are another run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoq.errors import RunDirectoryError
from autoq.reconstruction.tensor_folder import Kept, TensorFolder


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    folder = TensorFolder(tmp_path / "parts", "abc")
    assert folder.load("00-head") is None
    kept = Kept({"weight": torch.arange(6.0).reshape(2, 3).T}, {"before": 0.1 + 0.2})
    folder.save("00-head", kept)
    found = TensorFolder(tmp_path / "parts", "abc").load("00-head")
    assert found is not None
    assert torch.equal(found.tensors["weight"], kept.tensors["weight"])
    assert found.numbers == kept.numbers
    assert folder.load("01-head") is None


def test_nothing_is_kept_without_a_folder() -> None:
    folder = TensorFolder(None, "abc")
    folder.save("a", Kept({"weight": torch.zeros(1)}))
    assert folder.load("a") is None


def test_files_of_another_run_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    TensorFolder(tmp_path, "abc").save("a", Kept({"weight": torch.zeros(1)}))
    with pytest.raises(RunDirectoryError, match=r"a\.safetensors' was made for another model, other images or other"):
        TensorFolder(tmp_path, "abd").load("a")
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(RunDirectoryError, match=r"a\.safetensors' cannot be read .*: delete it"):
        TensorFolder(tmp_path, "abc").load("a")
