"""``autoq latency``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command, one_json, refusal


@pytest.mark.slow
def test_latency(command: Command, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe = run / "recipes" / "w4a4.json"
    document = one_json(command("latency", recipe, "--batch", 2, "--rounds", 2, "--json"))
    assert [(entry["batch"], entry["name"]) for entry in document["timings"]] == [(2, "float"), (2, "w4a4")]
    assert all(entry["milliseconds"] > 0 for entry in document["timings"])
    out = command("latency", run, "--against", recipe, "--rounds", 2).out.splitlines()
    assert "threads: 1, onnxruntime" in out[0]
    assert out[1] == "batch 1"
    assert [line.split()[0] for line in out[2:]][:2] == ["w4a4", "float"]
    assert all(" × as fast as w4a4 (" in line for line in out[2:])


def test_runtimes_are_named(command: Command, run: Path) -> None:
    assert "unknown runtime 'x'" in refusal(command, "latency", run, "--runtime", "x")
