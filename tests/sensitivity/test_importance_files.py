"""Importance on disk: comes back as it was, says what it is of, and is never half-written."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autoq.errors import RunDirectoryError
from autoq.sensitivity import importance_files
from autoq.sensitivity.block_importance import OutputImportance
from autoq.sensitivity.importance_files import Importance, load_importance, save_importance, save_table, summary_rows
from autoq.sensitivity.perturbation_hessian import PerturbationSettings


def make_importance() -> Importance:
    generator = torch.Generator().manual_seed(0)
    outputs = (
        OutputImportance("embed", "embed", 1, torch.rand(1, 6, 2, 3, generator=generator), 1, (2, 3)),
        OutputImportance("layers.0.1", "layers.0", 1, torch.rand(1, 7, 6, generator=generator), 2, (2, 3)),
        OutputImportance("layers.0.2", "layers.0", 2, torch.rand(4, 5, 6, generator=generator), 2),
        OutputImportance("head", "head", 0, torch.rand(1, 3, generator=generator), 1, None, True),
    )
    return Importance("small", "ab12", 8, "cd34", PerturbationSettings(seed=5, direction="ones"), outputs)


def test_comes_back(tmp_path: Path) -> None:
    importance = make_importance()
    path = tmp_path / "importance.safetensors"
    save_importance(importance, path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    loaded = load_importance(path)
    assert replace(loaded, outputs=()) == replace(importance, outputs=())
    path.write_bytes(bytes(path.stat().st_size))  # what was read does not depend on the file any more
    for one, other in zip(loaded.outputs, importance.outputs, strict=True):
        assert torch.equal(one.hessian, other.hessian)
        assert replace(one, hessian=other.hessian) == other


def test_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    save_importance(make_importance(), path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"embed", "layers.0.1", "layers.0.2", "head"}
        assert file.get_tensor("embed").dtype == torch.float32
        known = file.metadata()
    wanted = {"model": "small", "weights_sha256": "ab12", "images": "8", "temperature": "20.0", "direction": "ones"}
    assert wanted.items() <= known.items()
    assert known["unit"].startswith("nats per squared unit")


def test_table(tmp_path: Path) -> None:
    outputs = make_importance().outputs
    save_table(outputs, tmp_path / "importance.csv")
    with (tmp_path / "importance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], row["entry"], row["shape"]) for row in rows] == [
        ("embed", "1", "6x2x3"),
        ("layers.0", "1", "7x6"),
        ("layers.0", "2", "4x5x6"),
        ("head", "0", "3"),
    ]
    for row, each in zip(rows, outputs, strict=True):
        values = each.hessian.flatten().double()
        top = values.sort(descending=True).values[: max(1, -(-len(values) // 100))]
        assert float(row["mean"]) == pytest.approx(float(values.mean()), rel=1e-5)
        assert float(row["median"]) == pytest.approx(float(values.quantile(0.5)), rel=1e-5)
        assert float(row["p99"]) == pytest.approx(float(values.quantile(0.99)), rel=1e-5)
        assert float(row["max"]) == pytest.approx(float(values.max()), rel=1e-5)
        assert float(row["top_1_percent_share"]) == pytest.approx(float(top.sum() / values.sum()), rel=1e-5)
    assert summary_rows(outputs)[0].keys() == rows[0].keys()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    with pytest.raises(RunDirectoryError, match="cannot read"):
        load_importance(path)
    path.write_bytes(b"1")
    with pytest.raises(RunDirectoryError, match=r"holds no importance.*delete it"):
        load_importance(path)
    save_file({"head": torch.zeros(3)}, path)
    with pytest.raises(RunDirectoryError, match="its format is not"):
        load_importance(path)
    save_importance(make_importance(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunDirectoryError, match="holds no importance"):
        load_importance(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "importance.safetensors"
    save_importance(make_importance(), path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_importance(replace(make_importance(), images=9), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert importance_files.load_importance(path).images == 8
