"""``autoq finish``: what is printed, and wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.recipe import Recipe
from tests.cli.command import Command, one_json, refusal


@pytest.fixture
def recipe(tmp_path: Path, command: Command) -> Path:
    """A calibrated recipe with its bank."""
    out = tmp_path / "my run"
    made = command("quantize", "--method", "rtn", "--bits", "w3a6", "--calib-images", 12, "--out", out)
    assert made.status == 0, made.err
    return out / "recipe.json"


def test_for_people_and_for_programs(command: Command, recipe: Path, tmp_path: Path) -> None:
    outcome = command("finish", recipe, "--images", 32)
    assert (outcome.status, outcome.complaints) == (0, [])
    path = recipe.parent / "recipe-finished" / "recipe.json"
    before, after = Recipe.load(recipe), Recipe.load(path)
    assert before.score is not None
    assert after.score is not None
    headline, written = outcome.out.splitlines()
    assert headline.startswith(f"KL {before.score.kl_nats:#.2g} -> {after.score.kl_nats:#.2g} nats over 12 images, ")
    assert written == f"recipe: {path}"
    assert "autoq: finishing layers" in outcome.err
    document = one_json(command("finish", recipe, "--images", 32, "--out", tmp_path / "out", "--json"))
    assert document["recipe"] == str(tmp_path / "out" / "recipe.json")
    assert document["kl_nats"] == after.score.kl_nats


def test_refusals(command: Command, recipe: Path, tmp_path: Path) -> None:
    assert command("finish", recipe, "--images", 12).status == 0
    finished = recipe.parent / "recipe-finished" / "recipe.json"
    assert refusal(command, "finish", finished) == (
        "autoq: the recipe is finished already: give the calibrated one that it was made from."
    )
    assert "ridge of finishing is -1.0: it must be positive" in refusal(command, "finish", recipe, "--ridge", -1)
    assert "no-such" in refusal(command, "finish", tmp_path / "no-such.json")
