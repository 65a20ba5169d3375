"""Recipes to test with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoq.errors import RecipeError
from autoq.recipe import (
    CalibrationReference,
    CostRecord,
    ModelReference,
    OperandConfig,
    Recipe,
    ReconstructionReference,
    ScoreRecord,
)

WEIGHT = OperandConfig(scheme="uniform", bits=4, granularity="channel")
GROUPS = OperandConfig(scheme="instance_groups", bits=3, groups=8)
LOG = OperandConfig(scheme="adalog", bits=4, log_base_numerator=31, overflow="extra_zero")


def make_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": ModelReference(name="local-dir:models/mine", weights_sha256="ab" * 32),
        "sites": {
            "blocks.0.attn.qkv": {"input": GROUPS, "weight": WEIGHT},
            "blocks.0.attn.av": {"lhs": LOG},
        },
        "calibration": CalibrationReference(
            data="digits", images=128, seed=3, observer="mse", bank_fingerprint="0123456789abcdef"
        ),
        "cost": CostRecord(
            bops=1_930_000_000, group_bops=41_000_000, weight_layers_only_bops=1, weight_bytes=1_400_000
        ),
        "score": ScoreRecord(kl_nats=0.1 + 0.2, agreement_percent=96.1, sqnr_db=17.25, images=128),
    }
    return Recipe(**(values | changes))


def saved(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def complaint(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    return message


RECONSTRUCTED = ReconstructionReference(
    file="recipe.safetensors", sha256="cd" * 32, data="digits", images=64, seed=1, iterations=200, importance="aph"
)


def document() -> dict[str, Any]:
    return make_recipe().to_json()
