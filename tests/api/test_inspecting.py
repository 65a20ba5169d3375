"""autoq.sites and autoq.load_recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

import autoq
from tests.api.models import IMAGES, make


def test_sites_are_rows() -> None:
    table = autoq.sites(make(), example_input=IMAGES[:1])
    assert list(table.columns) == ["site", "op", "macs", "operand", "shape", "producer"]
    qkv = table[table.site == "qkv"]
    assert qkv.operand.tolist() == ["input", "weight"]
    assert qkv.macs.unique().tolist() == [4 * 16 * 48]
    assert qkv["shape"].tolist() == [(1, 4, 16), (48, 16)]
    assert {"qk", "av"} <= set(table.site)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="recipe"):
        autoq.load_recipe(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="model"):
        autoq.load_recipe(tmp_path / "bad.json")
