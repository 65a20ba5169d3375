"""What recipes say of their weights' files."""

from __future__ import annotations

import json
from pathlib import Path

from autoq.recipe import (
    FinishingReference,
    Recipe,
)
from tests.recipe.recipes import RECONSTRUCTED, complaint, make_recipe, saved


def test_a_reconstruction_is_written_where_there_is_one(tmp_path: Path) -> None:
    assert "reconstruction" not in make_recipe().to_json()
    make_recipe(reconstruction=RECONSTRUCTED).save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == make_recipe(reconstruction=RECONSTRUCTED)
    written = json.loads((tmp_path / "a.json").read_text())["reconstruction"]
    assert written.keys() == {"file", "sha256", "data", "images", "seed", "iterations", "importance"}
    some = RECONSTRUCTED.model_copy(update={"settings": {"batch": 8}, "blocks": ("blocks.0", "head")})
    make_recipe(reconstruction=some).save(tmp_path / "b.json")
    assert Recipe.load(tmp_path / "b.json").reconstruction == some


def test_complaints_about_a_reconstruction(tmp_path: Path) -> None:
    wrong = make_recipe(reconstruction=RECONSTRUCTED).to_json()
    wrong["reconstruction"]["iteration"] = wrong["reconstruction"].pop("iterations")
    message = complaint(saved(tmp_path, wrong))
    assert "unknown key 'reconstruction.iteration'. Did you mean 'iterations'?" in message
    wrong = make_recipe(reconstruction=RECONSTRUCTED).to_json()
    wrong["reconstruction"]["file"] = "../weights.safetensors"
    message = complaint(saved(tmp_path, wrong))
    assert "reconstruction.file: " in message
    assert "(got '../weights.safetensors')" in message


def test_a_finished_recipe_is_another_and_reconstruction_comes_after(tmp_path: Path) -> None:
    finishing = FinishingReference(file="recipe.safetensors", sha256="12" * 32, data="digits", images=512, seed=0)
    finished = make_recipe(finishing=finishing)
    assert finished.solved == finishing
    assert finished.content_hash != make_recipe().content_hash
    finished.save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == finished
    written = json.loads((tmp_path / "a.json").read_text())["finishing"]
    assert written.keys() == {"file", "sha256", "data", "images", "seed"}
    both = make_recipe(finishing=finishing, reconstruction=RECONSTRUCTED)
    assert both.solved == RECONSTRUCTED
    assert both.content_hash == make_recipe(reconstruction=RECONSTRUCTED).content_hash
