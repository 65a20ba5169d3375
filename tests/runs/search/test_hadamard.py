"""A search whose space offers an online Hadamard transform, from the space to a recipe that is applied again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import autoq
from autoq.errors import RecipeError
from autoq.recipe import OperandConfig, Recipe
from autoq.report import write_report
from autoq.report.from_run import summarize
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import make_settings
from tests.runs.small_run import SPACE, trace_once

HADAMARD = """
[[rules]]
producer = "gelu"
operand = "input"
scheme = ["uniform", "hadamard"]
hadamard_block = 64
"""


@pytest.mark.slow
def test_it_ends_with_recipes_in_one_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    path = tmp_path / "hadamard.toml"
    path.write_text(SPACE.replace("[[ties]]", f"{HADAMARD}\n[[ties]]"), encoding="utf-8")
    settings = make_settings(
        {"space": str(path), "trials": 4, "calib_images": 8, "budget_bops": "60%", "baselines": "uniform"}
    )
    outcome = run_search(settings, tmp_path / "run")
    recipes = [Recipe.load(each) for each in sorted((tmp_path / "run" / "recipes").glob("*.json"))]
    assert recipes
    transformed = 0
    for recipe in recipes:
        for site in recipe.sites.values():
            blocks = {config.hadamard_block for config in site.values()}
            assert len(blocks) == 1
            transformed += blocks != {1}
    assert transformed
    assert outcome.front
    text = (tmp_path / "run" / "sensitivity.csv").read_text(encoding="utf-8")
    assert "blocks.0.mlp.fc2,weight,hadamard" in text
    write_report(summarize(tmp_path / "run"), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert re.search(r'hadamard_block\\*": ?64', page)

    best = next(
        recipe for recipe in recipes if any(c.hadamard_block > 1 for s in recipe.sites.values() for c in s.values())
    )
    again = autoq.evaluate(best)
    assert best.score is not None
    assert best.cost is not None
    assert again.score is not None
    assert again.cost is not None
    assert again.score.kl_nats == best.score.kl_nats
    assert again.cost == best.cost
    assert best.cost.group_bops > 0


def test_a_recipe_whose_weight_is_in_another_basis_is_refused(tmp_path: Path) -> None:
    recipe = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a8", calib_images=8).recipe
    given = OperandConfig(scheme="hadamard", bits=8, hadamard_block=16)
    site = recipe.sites["blocks.0.mlp.fc2"]
    edited = recipe.model_copy(update={"sites": recipe.sites | {"blocks.0.mlp.fc2": site | {"input": given}}})
    edited.save(tmp_path / "edited.json")
    message = r"the operands of blocks\.0\.mlp\.fc2 .* \(input in blocks of 16, weight in blocks of 1 channels\)"
    with pytest.raises(RecipeError, match=message):
        autoq.evaluate(Recipe.load(tmp_path / "edited.json"), data="digits")
    with pytest.raises(RecipeError, match=message):
        autoq.quantize("vit_digits", edited, images="digits")
