"""``autoq latency-table``."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.cost.latency import LatencyTable
from tests.cli.command import Command, one_json, refusal


@pytest.mark.slow
def test_a_table_to_search_with(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "table.json"
    document = one_json(command("latency-table", "-o", path, "--rounds", 2, "--json"))
    table = LatencyTable.load(path)
    assert document["rows"] == len(table.rows)
    assert document["milliseconds"]["float"] == pytest.approx(table.add_up(quantized=False))
    out = command("latency-table", "-o", path, "--rounds", 2).out
    assert out.startswith(f"{len(table.rows)} rows -> ")
    assert "as fast, by adding up" in out
    space = ("--space", "onnxruntime_8", "--trials", 4, "--calib-images", 8, "--no-finish", "--fast")
    budget = ("--budget-latency", "120%", "--latency-table", path)
    assert command("search", *budget, *space, "--out", tmp_path / "run").status == 0


def test_a_path_that_cannot_be_written_is_refused_first(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    message = refusal(command, "latency-table", "-o", tmp_path / "none" / "table.json", "--rounds", 1_000_000)
    assert "cannot write" in message


def test_runtimes_are_named(command: Command, tmp_path: Path) -> None:
    assert "unknown runtime 'x'" in refusal(command, "latency-table", "-o", tmp_path / "t.json", "--runtime", "x")
