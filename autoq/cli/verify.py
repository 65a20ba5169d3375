"""``autoq verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import CalibData, Json, Pick, RecipeModel, Version, print_json
from autoq.errors import RunError

_ACCUMULATORS = (16, 32)
"""Widths that hardware has."""


def verify(
    recipe: Annotated[Path, typer.Argument(metavar="RUN|RECIPE", help="A run directory, or a recipe's file.")],
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=1, max=1_000_000, help="Calibration images.")
    ] = 16,
    pick: Pick = "best",
    version: Version = None,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    as_json: Json = False,
) -> None:
    """Compute a recipe's products on integer codes, and say how wide their sums get.

    Each product of two operands with equally spaced codes is computed on whole numbers and scaled once, and compared
    with the product of fake-quantized operands; sites that differ by more than rounding are named, with status 1.
    """
    from autoq.api.verifying import verify as check
    from autoq.exporters import pick_recipe

    found = check(pick_recipe(recipe, pick, version=version).recipe, model=model, images=calib_data, count=images)
    if as_json:
        print_json(found.to_json())
    else:
        width = max((len(product.site) for product in found.products), default=4)
        typer.echo(f"{'site':<{width}}  difference  bits seen  bits that always do")
        for product in found.products:
            typer.echo(
                f"{product.site:<{width}}  {product.difference:10.1e}  {product.seen_bits:9}  {product.safe_bits:19}"
            )
        for reason in dict.fromkeys(found.others.values()):
            sites = [site for site, why in found.others.items() if why == reason]
            typer.echo(f"not integers: {', '.join(sites)} ({reason})")
        for bits in _ACCUMULATORS:
            sites = found.overflowing(bits)
            typer.echo(f"accumulators of {bits} bits may overflow in {len(sites)} of {len(found.products)} products")
    if wrong := [product.site for product in found.products if not product.is_equal]:
        raise RunError(f"products in integers differ from the simulation by more than rounding: {', '.join(wrong)}")
