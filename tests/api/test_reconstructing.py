"""autoq.reconstruct."""

from __future__ import annotations

from pathlib import Path

import pytest

import autoq
from autoq.errors import RecipeError
from tests.api.models import IMAGES, SETTINGS, make


def test_learned_weights_stay_with_the_recipe(tmp_path: Path) -> None:
    result = autoq.search(make(), IMAGES, "w2a2", **SETTINGS, fast=True)  # so that something is left to learn
    learned = autoq.reconstruct(make(), result.best, IMAGES, iterations=20, count=24)
    assert learned.reconstruction is not None
    assert (learned.reconstruction.iterations, learned.reconstruction.images) == (20, 24)
    before = autoq.evaluate(result.best, IMAGES, model=make()).score
    quantized = autoq.quantize(make(), learned)
    after = autoq.evaluate(quantized, IMAGES, model=make()).score
    assert before is not None
    assert after is not None
    assert after.kl_nats < before.kl_nats
    assert autoq.evaluate(learned, IMAGES, model=make()).score.kl_nats == pytest.approx(after.kl_nats, rel=1e-3)
    autoq.export(learned, tmp_path / "learned.json")
    assert (tmp_path / "learned.safetensors").exists()
    assert autoq.load_recipe(tmp_path / "learned.json").reconstruction is not None
    with pytest.raises(RecipeError, match="reconstructed already"):
        autoq.reconstruct(make(), learned, IMAGES)


def test_a_directory_is_kept_and_resumed(tmp_path: Path) -> None:
    result = autoq.search(make(), IMAGES, **SETTINGS)
    options = {"iterations": 2, "count": 8, "out": tmp_path / "learned"}
    first = autoq.reconstruct(make(), result.best, IMAGES, **options)  # type: ignore[arg-type]
    assert first.folder == tmp_path / "learned"
    assert autoq.reconstruct(make(), result.best, IMAGES, **options) == first  # type: ignore[arg-type]
