"""``autoq verify``."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.scoring import integer_products
from tests.cli.command import Command, one_json


def test_verify(command: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run / "recipes" / "w4a4.json"
    outcome = command("verify", recipe, "--images", 4)
    first, *lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert first.split() == ["site", "difference", "bits", "seen", "bits", "that", "always", "do"]
    assert any(line.startswith(("blocks.0.attn.qkv ", "not integers: ")) for line in lines)
    assert "accumulators of 32 bits may overflow in 0 of " in lines[-1]
    document = one_json(command("verify", recipe, "--images", 4, "--json"))
    assert document == one_json(command("verify", run, "--pick", "w4a4", "--images", 4, "--json"))
    assert all(product["is_equal"] for product in document["products"])
    assert "codes of scheme adalog are no multiples of one step" in document["others"].values()
    monkeypatch.setattr(integer_products, "_ROUNDING", -1.0)
    failed = command("verify", recipe, "--images", 4)
    assert failed.status == 1
    assert "differ from the simulation by more than rounding: " in failed.err
