"""Recipes in the page: small, and to the letter what their files are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from autoq.recipe import Recipe
from autoq.report import RunSummary
from autoq.report.page.recipes import RecipeEncoder
from autoq.report.points import Point


def rebuilt(encoder: RecipeEncoder, columns: dict[str, list[str]], index: int, form: int, letters: str) -> str:
    """Put a recipe's file together as the page does (``script/recipes.js``)."""
    parts, operands = encoder.forms[form]["parts"], encoder.forms[form]["operands"]
    sites: dict[str, list[str]] = {}
    for letter, number in zip(letters, operands, strict=True):
        site, name = encoder.operands[number]
        option, _ = encoder.options[number][ord(letter) - 48]
        sites.setdefault(site, []).append(f"      {json.dumps(name)}: {option}")
    rows = [f"    {json.dumps(site)}: {{\n" + ",\n".join(lines) + "\n    }" for site, lines in sites.items()]
    text = "{\n" + ",\n".join(rows) + "\n  }"
    known = columns | encoder.columns
    return "".join(
        part if place % 2 == 0 else text if part == "sites" else known[part][index] for place, part in enumerate(parts)
    )


def test_files_are_put_together_to_the_letter(summary: RunSummary, tmp_path: Path) -> None:
    points = [with_records(point) for point in summary.points[::15]]
    columns = {"kl_nats": [json.dumps(point.kl_nats) for point in points]}
    encoder = RecipeEncoder(columns)
    encoded = [encoder.add(index, point) for index, point in enumerate(points)]
    for index, (point, (form, letters)) in enumerate(zip(points, encoded, strict=True)):
        Recipe.model_validate(point.recipe).save(tmp_path / "recipe.json")
        assert rebuilt(encoder, columns, index, form, letters) == (tmp_path / "recipe.json").read_text()
    assert len(encoder.forms) == 1, "recipes of one search share the rest"
    assert all(len(letters) == len(encoder.operands) for _, letters in encoded)


def with_records(point: Point) -> Point:
    assert point.recipe is not None
    cost = {"bops": point.bops, "group_bops": 0, "weight_layers_only_bops": 1, "weight_bytes": point.weight_bytes}
    score = {"kl_nats": point.kl_nats, "sqnr_db": 1e-05 * point.kl_nats, "logit_mse": 1.0, "images": 96}
    document = Recipe.model_validate({**point.recipe, "cost": cost, "score": score}).to_json()
    return replace(point, recipe=document)


def test_a_recipe_that_is_not_known_has_no_form(summary: RunSummary) -> None:
    encoder = RecipeEncoder({"kl_nats": ["0.1"]})
    assert encoder.add(0, replace(summary.points[0], recipe=None)) == (-1, "")


def test_logarithm_bases_come_as_text(summary: RunSummary) -> None:
    sites = {
        "one": {"input": {"scheme": "adalog", "bits": 4, "log_base_numerator": 37}},
        "other": {"input": {"scheme": "log_sqrt2", "bits": 4}, "weight": {"scheme": "uniform", "bits": 4}},
    }
    assert summary.points[0].recipe is not None
    encoder = RecipeEncoder({"kl_nats": ["0.1"]})
    encoder.add(0, replace(summary.points[0], recipe={**summary.points[0].recipe, "sites": sites}))
    assert encoder.operands == [("one", "input"), ("other", "input"), ("other", "weight")]
    assert [[base for _, base in options] for options in encoder.options] == [["2.00"], ["√2"], [""]]
