"""Configurations of operands that a recipe cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipe.recipes import complaint, document, saved


@pytest.mark.parametrize("bits", [0, 17, -1, "four", None])
def test_bits_out_of_range(tmp_path: Path, bits: Any) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"]["bits"] = bits
    message = complaint(saved(tmp_path, wrong))
    assert "sites.blocks.0.attn.av.lhs.bits" in message
    assert f"(got {bits!r})" in message


@pytest.mark.parametrize(
    ("field", "value"), [("groups", 0), ("log_base_numerator", 9), ("granularity", "row"), ("overflow", "clip")]
)
def test_other_values_out_of_range(tmp_path: Path, field: str, value: Any) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"][field] = value
    assert f"lhs.{field}" in complaint(saved(tmp_path, wrong))
